"""STATION: check(run) -> Plan. Every error that a configuration can have is found here, before data or weights."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.contracts import (
    AUGMENTS,
    BACKBONES,
    EXPORTS,
    FUSIONS,
    MODALITIES,
    OBJECTIVES,
    PRESENCE,
    TASKS,
    Card,
    Fusion,
    Labels,
    Mix,
    Modality,
    Task,
)
from tfx_finetune.core import assets, config, plugins
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec, parse_specs
from tfx_finetune.delivery.choose import Limit, parse_limits
from tfx_finetune.deployed import Compression, Export, chain
from tfx_finetune.languages.growing import Growth, growth_of, warmed
from tfx_finetune.languages.routing import routes
from tfx_finetune.learning import Objective
from tfx_finetune.network import initial
from tfx_finetune.reading import located
from tfx_finetune.reading.renamed import Renaming, renaming_of
from tfx_finetune.reading.shares import check_mixing
from tfx_finetune.sources.recognize import named_sources, recognize
from tfx_finetune.training.stages import check_strategy, staged
from tfx_finetune.training.teacher import Teacher, teachers_of
from tfx_finetune.vision.places import Change

_USUAL = "keras_file(), saved_model(), tflite(), tflite(quantize='float16')"
# The fields of a prediction beside its heads.
_RECORD = {"file", "input", "error"}


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
    start: initial.Start | None = None
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


def check(run: Run) -> Plan:
    """Checks a configuration as a whole and resolves it.

    Raises:
        UserError: For the first thing that is wrong with it.
    """
    config.validate(run)
    check_strategy(run)
    plugins.load(run.plugins)
    assets.use_cache(run.cache.dir)
    sources = named_sources(run.data, run.sources)
    check_mixing(run.mix, [name for name in sources if name])
    if run.samples.test + run.samples.val >= 1:
        shares = f"{run.samples.test} + {run.samples.val}"
        raise UserError("--samples.test and --samples.val leave nothing to train on", received=shares)
    start = initial.start_of(run)
    towers = _towers(run, initial.backbones(run, start))
    initial.check_towers(start, towers)
    modalities = {name: BACKBONES.modality(spec.name) for name, spec in towers.items()}
    growth = growth_of(run, start)
    heads = growth.heads if growth else _heads(run.heads)
    if taken := set(heads) & _RECORD:
        raise UserError("a head cannot have this name, which a prediction needs", received=min(taken))
    drafts = {head: draft_of(spec) for head, spec in heads.items()}
    built = {kind: modality(run, kind, Card(size=1)) for kind in dict.fromkeys(modalities.values())}
    augments, mixes = _augments(run, towers, built)
    located.check(run, heads, drafts, modalities, augments, mixes)
    compressions = chain(run.compress)
    if compressions and any(draft.space for draft in drafts.values()):
        raise UserError("--compress takes heads of fixed classes", received=run.heads, allowed="classify() or tag()")
    warm = staged("warm", warmed(run.warm) if growth else run.warm, towers)
    return Plan(
        run=run,
        sources=sources,
        towers=towers,
        modalities=modalities,
        fusion=FUSIONS.build(parse_spec(run.fusion)) if len(towers) > 1 else None,
        heads=heads,
        drafts=drafts,
        route=growth.route if growth else routes(heads, drafts, run.route),
        augments=augments,
        mixes=mixes,
        compressions=compressions,
        exports=_exports(run, built, compressions),
        limits=parse_limits(run.choose),
        phases=warm if growth else warm | staged("tune", run.tune, towers),
        workdir=Path(run.workdir or Path("runs") / _slug(sources)),
        start=start,
        teachers=teachers_of(run, modalities, drafts),
        names=recognize(run.names) if run.names else None,
        growth=growth,
        renaming=renaming_of(run, drafts, sources),
        objectives=_objectives(run.objectives, mixes),
    )


def draft_of(head: Spec) -> Task:
    """The head as it would be for two classes."""
    return TASKS.build(head, Labels(("a", "b"), (1, 1), 2))


def _heads(specs: str) -> dict[str, Spec]:
    """The heads by name; a lone one without a name has that of its column."""
    heads = parse_named_specs(specs, default="")
    if not heads:
        raise UserError("no head given", allowed=sorted(TASKS))
    return {name or draft_of(spec).column: spec for name, spec in heads.items()}


def modality_options(run: Run, modality: str) -> dict[str, object]:
    """The options of a modality that a run sets; those of a plug-in's keep their defaults."""
    group = getattr(run, modality, None)
    return dataclasses.asdict(group) if dataclasses.is_dataclass(group) and not isinstance(group, type) else {}


def modality(run: Run, kind: str, card: Card, **changed: object) -> Modality:
    """A modality as a run sets it, for what this card feeds; `changed` options come before the run's."""
    return MODALITIES.build(Spec(kind, (), modality_options(run, kind) | changed), card)


def _towers(run: Run, specs: str) -> dict[str, Spec]:
    """The towers by name; a lone one without a name has that of its modality."""
    towers = parse_named_specs(specs, default="")
    if "" in towers:
        towers = {BACKBONES.modality(towers[""].name): towers[""]}
    if PRESENCE in towers:
        raise UserError("a tower cannot have this name, which is that of another input", received=PRESENCE)
    return {name: _sized(spec, run, BACKBONES.modality(spec.name)) for name, spec in towers.items()}


def _exports(run: Run, built: Mapping[str, Modality], compressions: Mapping[str, Compression]) -> dict[str, Export]:
    """The files to write, by spec string, each once."""
    rounded = any(compression.name == "qat" for compression in compressions.values())
    specs = _usual_exports(built, rounded) if run.exports == "usual" else run.exports
    exports = {str(spec): EXPORTS.build(spec) for spec in parse_specs(specs)}
    formats = [export.format for export in exports.values()]
    if len(set(formats)) < len(formats):
        raise UserError("--exports writes a file twice", received=formats)
    chosen = [spec for spec, export in exports.items() if export.selective]
    if chosen and rounded:
        # Its ranges were trained with the network: without them there is nothing to choose among.
        todo = "leave selective=True out, or qat()"
        raise UserError("qat() leaves no layer to be chosen", received=", ".join(chosen), todo=todo)
    return exports


def _usual_exports(built: Mapping[str, Modality], rounded: bool) -> str:
    """Pixels alone have eight bits: of other inputs what needs more stays float, unless trained to be rounded."""
    other = any(modality.dtype != "uint8" for modality in built.values())
    selective = ", selective=True" if other and not rounded else ""
    return f"{_USUAL}, tflite(quantize='int8'{selective})"


def _augments(
    run: Run, towers: Mapping[str, Spec], built: Mapping[str, Modality]
) -> tuple[dict[str, tuple[str, Change]], tuple[Mix, ...]]:
    """The changes of single samples, each with its modality, and those of batches."""
    usual = ", ".join(filter(None, (modality.usual for modality in built.values())))
    specs = parse_specs(usual if run.augment == "usual" else run.augment)
    found = {str(spec): (AUGMENTS.modality(spec.name), AUGMENTS.build(spec)) for spec in specs}
    mixes = tuple(augment for _, augment in found.values() if isinstance(augment, Mix))
    if mixes and len(towers) > 1:
        received = ", ".join(spec for spec, (_, augment) in found.items() if isinstance(augment, Mix))
        raise UserError("batches of several towers are not mixed", received=received, todo="leave it out")
    singles = {spec: (kind, augment) for spec, (kind, augment) in found.items() if not isinstance(augment, Mix)}
    for spec, (kind, _) in singles.items():
        if kind not in built:
            what = "an augment for what no tower takes"
            raise UserError(what, received=f"{spec} ({kind})", allowed=list(built), todo="leave it out")
    return singles, mixes


def _sized(tower: Spec, run: Run, modality: str) -> Spec:
    """The tower with the size that `--image.size`, or that of its modality, asks for.

    Raises:
        UserError: The spec is malformed, or says another size.
    """
    options = BACKBONES.options(tower)
    size = getattr(getattr(run, modality, None), "size", 0)
    if not size:
        return tower
    signature = BACKBONES.signature(tower.name)
    if "size" not in signature.parameters:
        received = f"--{modality}.size={size} beside {tower}"
        raise UserError("the size of this backbone cannot be chosen", received=received)
    said = signature.bind(*tower.args, **tower.kwargs).arguments.get("size", 0)
    if said not in (0, size):
        received = f"--{modality}.size={size} beside {tower}"
        raise UserError("two sizes of the input", received=received, todo="say it once")
    return Spec(tower.name, (), options | {"size": size})


def _objectives(specs: str, mixes: tuple[Mix, ...]) -> dict[str, Objective]:
    """What is learned beside the labels, each once."""
    listed = parse_specs(specs)
    found = {spec.name: OBJECTIVES.build(spec) for spec in listed}
    if len(found) < len(listed):
        raise UserError("--objectives names one twice", received=specs)
    if found and mixes:
        todo = "leave mixup() and cutmix() out"
        raise UserError("batches with --objectives are not mixed", received=specs, todo=todo)
    return found


def _slug(sources: Mapping[str, Spec]) -> str:
    if "" not in sources:
        return "_".join(sources)
    source = sources[""]
    said = [str(value) for value in source.args] + [v for k, v in source.kwargs.items() if k == "path"]
    text = Path(said[0]).name if said and said[0] else source.name
    return re.sub(r"[^\w.-]+", "_", text) or source.name
