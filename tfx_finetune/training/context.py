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
        workdir: Work folder of the run, with the folders `checkpoints` and `tensorboard`.
        phases: Options of the phases by name, in the order of training.
        seed: Seed of the run.
        features_folder: Folder of the feature cache.
        precision: Type of cached features, `float32` or `float16`.
        cache_keys: Settings that determine the features of the frozen part, by tower; see
            `feature_cache.feature_cache_key`.
        auxiliary_losses: Objectives of `--auxiliary_losses` by name.
        teachers: Opened bundles of `--teacher`.
        distill: Options of distillation.
        teacher_keys: Settings that determine the predictions of a teacher, by tower; see
            `feature_cache.preprocessing_key`.
        same_head_inputs: True if the heads read the same features as in the bundle of `--init`.
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
