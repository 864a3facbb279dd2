"""A checked run: specs and numbers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import assets, plugins
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.label_map import Renaming
from tfx_finetune.datasets.modalities.build import modality_options
from tfx_finetune.models import warm_start
from tfx_finetune.models.add_language import Growth
from tfx_finetune.training.teacher import Teacher
from tfx_finetune.types.components import Fusion, Mix, Task
from tfx_finetune.types.deployment import Compression, Export, Limit
from tfx_finetune.types.localization import Change
from tfx_finetune.types.training import Objective


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
        start: The bundle whose weights the run starts from; None for those that the backbones bring.
        teachers: Bundles whose answers the heads learn from beside the labels.
        names: Where the names of the classes in other languages are from; None for nowhere.
        growth: What that bundle becomes where a language is added to it; None where none is.
        renaming: How labels are renamed; None where they stay.
        objectives: What is learned beside the labels, by name.
    """

    run: Run
    sources: dict[str, Spec]
    towers: dict[str, Spec]
    modalities: dict[str, str]
    fusion: Fusion | None
    heads: dict[str, Spec]
    drafts: dict[str, Task]
    route: str
    augments: dict[str, tuple[str, Change]]
    mixes: tuple[Mix, ...]
    compressions: dict[str, Compression]
    exports: dict[str, Export]
    limits: tuple[Limit, ...]
    phases: dict[str, Phase]
    workdir: Path
    start: warm_start.Start | None = None
    teachers: tuple[Teacher, ...] = ()
    names: Spec | None = None
    growth: Growth | None = None
    renaming: Renaming | None = None
    objectives: Mapping[str, Objective] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the samples come from, as it is written."""
        return ", ".join(f"{name}={spec}" if name else str(spec) for name, spec in self.sources.items())

    def preparation(self, tower: str) -> dict[str, object]:
        """What determines what a tower takes of a sample and its target, apart from its content."""
        run, mine = self.run, self.modalities[tower]
        heads = {head: str(spec) for head, spec in self.heads.items()}
        # An augment draws by its position among all of them.
        augments = {at: spec for at, (spec, (takes, _)) in enumerate(self.augments.items()) if takes == mine}
        routed = {"route": self.route} if self.route else {}
        plugged = {"plugins": plugins.digests(run.plugins)} if run.plugins else {}
        options = {mine: modality_options(run, mine), "augment": augments, "seed": run.seed, "heads": heads}
        return options | routed | plugged

    def before_top(self, tower: str) -> dict[str, object]:
        """What determines what a frozen tower gives, apart from samples, graph and weights."""
        # The same graph may be fed other tokens, which the spec says.
        made = {"backbone": str(self.towers[tower]), "precision": self.run.cache.precision}
        return self.preparation(tower) | made

    @property
    def features_folder(self) -> Path | None:
        """Where a trunk's outputs are kept for the next run; None where they are not."""
        return assets.cache() / "features" if self.run.cache.enabled else None
