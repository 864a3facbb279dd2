"""A checked run: specs and numbers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import BatchAugment, Fusion, Task
from tfx_finetune.types.deployment import Compression, Constraint, Export
from tfx_finetune.types.localization import SampleAugment
from tfx_finetune.types.training import Objective


@dataclass(frozen=True)
class Architecture:
    """The layers of a model, apart from its heads.

    Attributes:
        towers: Backbone specs by the name of the tower.
        fusion: Combines the features of several towers; None for one tower.
        phases: Training phases, whose adapters may insert layers.
    """

    towers: Mapping[str, Spec]
    fusion: Fusion | None = None
    phases: Mapping[str, Phase] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A checked run, its spec strings resolved.

    Attributes:
        run: The configuration as it was given.
        sources: Where the samples come from, by name; a lone one has none.
        towers: Backbone specs by the name of the tower, which is also that of the model's input.
        modalities: What each tower takes, by name.
        fusion: How several towers become one; None where there is one.
        heads: Task specs by head.
        drafts: Each head as it would be for two classes: what it reads is known before its classes are.
        route: The column that says which head is asked about a sample; empty where all are.
        augments: Changes of single training samples by spec string, in the order in which they are applied, each with
            the modality that it changes.
        mixes: Changes of whole training batches, likewise.
        compressions: What makes the trained model smaller, by spec string, in order.
        exports: The files to write, by spec string.
        limits: What a file has to keep to be the chosen one.
        phases: By name, in order, those of zero epochs left out.
        workdir: The folder for everything the run writes.
        names: Where the names of the classes in other languages are from; None for nowhere.
        objectives: What is learned beside the labels, by name.
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
        """Where the samples come from, as it is written."""
        return ", ".join(f"{name}={spec}" if name else str(spec) for name, spec in self.sources.items())

    @property
    def architecture(self) -> "Architecture":
        """The part of the plan that determines the layers of the model."""
        return Architecture(self.towers, self.fusion, self.phases)

    @property
    def features_folder(self) -> Path | None:
        """Where a trunk's outputs are kept for the next run; None where they are not."""
        return assets.get_cache_dir() / "features" if self.run.cache.enabled else None
