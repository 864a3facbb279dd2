"""STATION: check(run) -> Plan. Every error that a configuration can have is found here, before data or weights."""

import re
from collections.abc import Mapping
from pathlib import Path

from tfx_finetune.compression.chain import chain
from tfx_finetune.core import assets, config, plugins
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec, parse_specs
from tfx_finetune.datasets.label_map import renaming_of
from tfx_finetune.datasets.mixture_weights import check_mixing
from tfx_finetune.datasets.modalities.build import modality
from tfx_finetune.datasets.sources.infer_source import named_sources, recognize
from tfx_finetune.deploy.selection import parse_limits
from tfx_finetune.models import warm_start
from tfx_finetune.models.add_language import growth_of, warmed
from tfx_finetune.run.resources import Resources
from tfx_finetune.tasks import localization
from tfx_finetune.tasks.routing import draft_of, routes
from tfx_finetune.training.teacher import teachers_of
from tfx_finetune.training.unfreezing_schedule import check_strategy, staged
from tfx_finetune.types.components import (
    AUGMENTS,
    BACKBONES,
    EXPORTS,
    FUSIONS,
    OBJECTIVES,
    PRESENCE,
    TASKS,
    Card,
    Mix,
    Modality,
)
from tfx_finetune.types.deployment import Compression, Export
from tfx_finetune.types.localization import Change
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.training import Objective

_USUAL = "keras_file(), saved_model(), tflite(), tflite(quantize='float16')"
# The fields of a prediction beside its heads.
_RECORD = {"file", "input", "error"}


def check(run: Run) -> Plan:
    """Validate a configuration as a whole and resolve its specs.

    Raises:
        UserError: The first error of the configuration.
    """
    return open_run(run)[0]


def open_run(run: Run) -> tuple[Plan, Resources]:
    """Validate a configuration as `check` does, and return what that opened as well.

    Raises:
        UserError: The first error of the configuration.
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
    start = warm_start.start_of(run)
    towers = _towers(run, warm_start.backbones(run, start))
    warm_start.check_towers(start, towers)
    modalities = {name: BACKBONES.modality(spec.name) for name, spec in towers.items()}
    growth = growth_of(run, start)
    heads = growth.heads if growth else _heads(run.heads)
    if taken := set(heads) & _RECORD:
        raise UserError("a head cannot have this name, which a prediction needs", received=min(taken))
    drafts = {head: draft_of(spec) for head, spec in heads.items()}
    built = {kind: modality(run, kind, Card(size=1)) for kind in dict.fromkeys(modalities.values())}
    augments, mixes = _augments(run, towers, built)
    localization.check(run, heads, drafts, modalities, augments, mixes)
    compressions = chain(run.compress)
    if compressions and any(draft.space for draft in drafts.values()):
        raise UserError("--compress takes heads of fixed classes", received=run.heads, allowed="classify() or tag()")
    warm = staged("warm", warmed(run.warm) if growth else run.warm, towers)
    resources = Resources(
        init=start,
        teachers=teachers_of(run, modalities, drafts),
        growth=growth,
        renaming=renaming_of(run, drafts, sources),
    )
    plan = Plan(
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
        names=recognize(run.names) if run.names else None,
        objectives=_objectives(run.objectives, mixes),
    )
    return plan, resources


def _heads(specs: str) -> dict[str, Spec]:
    """The heads by name; a lone one without a name has that of its column."""
    heads = parse_named_specs(specs, default="")
    if not heads:
        raise UserError("no head given", allowed=sorted(TASKS))
    return {name or draft_of(spec).column: spec for name, spec in heads.items()}


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
