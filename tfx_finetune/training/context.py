"""Settings and opened bundles that all phases of a run share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfx_finetune.core.config import DistillOptions, Phase
from tfx_finetune.training.teacher import Teacher
from tfx_finetune.types.training import Objective


@dataclass(frozen=True)
class TrainingContext:
    """Settings and opened bundles that all phases of a run share.

    Attributes:
        workdir: Folder of checkpoints and logs.
        phases: Phases by name, in order.
        seed: Seed of the run.
        features_folder: Folder of the feature cache.
        precision: Type in which features are cached: `float32` or `float16`.
        cache_keys: For each tower, what determines the features of its frozen part, apart from samples, graph and
            weights; see `feature_cache.feature_cache_key`.
        objectives: Auxiliary losses by name.
        teachers: Bundles whose predictions the heads learn from.
        distill: Options of distillation.
        teacher_keys: For each tower, what determines its inputs; see `feature_cache.preprocessing_key`.
        same_head_inputs: True if the heads see the features that they see in the bundle of `--init`.
    """

    workdir: Path
    phases: Mapping[str, Phase]
    seed: int
    features_folder: Path
    precision: str
    cache_keys: Mapping[str, Mapping[str, object]]
    auxiliary_losses: Mapping[str, Objective] = field(default_factory=dict)
    teachers: tuple[Teacher, ...] = ()
    distill: DistillOptions = field(default_factory=DistillOptions)
    teacher_keys: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    same_head_inputs: bool = False
