"""The validated options of a run: specs, settings and components that need neither data nor weights."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import BatchAugment, Fusion
from tfx_finetune.types.deployment import Compression, Constraint, Export
from tfx_finetune.types.localization import SampleAugment
from tfx_finetune.types.task import Task
from tfx_finetune.types.training import Objective


@dataclass(frozen=True)
class Architecture:
    """Layers of a model below its heads.

    Attributes:
        towers: Backbone specs by tower.
        fusion: Fusion of several towers; None for one tower.
        phases: Training phases by name, whose adapters may insert layers.
    """

    towers: Mapping[str, Spec]
    fusion: Fusion | None = None
    phases: Mapping[str, Phase] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Validated options of a run, with spec strings resolved.

    Attributes:
        run: Options of the run.
        sources: Source specs by name; a source without a name has an empty one.
        towers: Backbone specs by tower, which is also the name of the model input.
        modalities: Name of the modality of each tower.
        fusion: Fusion of several towers; None for one tower.
        heads: Task specs by head.
        task_templates: Each head built for two classes: its column and inputs are known before its classes.
        heads_by: Column that selects the head of a sample; empty if every head is trained on all samples.
        augments: Augments of single samples by spec string, in order, each with its modality.
        batch_augments: Augments of batches, in order.
        compressions: Compressions by spec string, in order.
        exports: Exported formats by spec string.
        constraints: Constraints that select `model_best.tflite`.
        phases: Training phases by name, in order, without phases of zero epochs.
        workdir: Folder of all results.
        label_translations: Source of class names in other languages; None without one.
        auxiliary_losses: Auxiliary losses by name.
    """

    run: Run
    sources: dict[str, Spec]
    towers: dict[str, Spec]
    modalities: dict[str, str]
    fusion: Fusion | None
    heads: dict[str, Spec]
    task_templates: dict[str, Task]
    heads_by: str
    augments: dict[str, tuple[str, SampleAugment]]
    batch_augments: tuple[BatchAugment, ...]
    compressions: dict[str, Compression]
    exports: dict[str, Export]
    constraints: tuple[Constraint, ...]
    phases: dict[str, Phase]
    workdir: Path
    label_translations: Spec | None = None
    auxiliary_losses: Mapping[str, Objective] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> str:
        """Source specs as one string."""
        return ", ".join(f"{name}={spec}" if name else str(spec) for name, spec in self.sources.items())

    @property
    def architecture(self) -> Architecture:
        """Layers of the model below its heads."""
        return Architecture(self.towers, self.fusion, self.phases)

    @property
    def features_folder(self) -> Path | None:
        """Folder of the feature cache that later runs use; None if the cache is disabled."""
        return assets.get_cache_dir() / "features" if self.run.cache.enabled else None
