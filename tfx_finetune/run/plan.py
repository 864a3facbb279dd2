"""STATION: check(run) -> Plan. Every error that a configuration can have is found here, before data or weights."""

import re
from collections.abc import Mapping
from pathlib import Path

from tfx_finetune.compression.chain import parse_compressions
from tfx_finetune.core import assets, plugins
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import validate
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec, parse_specs
from tfx_finetune.datasets.label_map import read_label_map
from tfx_finetune.datasets.mixture_weights import check_mixture
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.sources.infer_source import infer_source, parse_sources
from tfx_finetune.deploy.selection import parse_constraints
from tfx_finetune.models import warm_start
from tfx_finetune.models.add_language import disable_unfreezing, make_language_extension
from tfx_finetune.run.resources import Resources
from tfx_finetune.tasks import localization
from tfx_finetune.tasks.routing import make_task_template, check_heads_by
from tfx_finetune.training.teacher import open_teachers
from tfx_finetune.training.unfreezing_schedule import check_strategy, gradual_unfreezing
from tfx_finetune.types.components import (
    AUGMENTS,
    BACKBONES,
    EXPORTS,
    FUSIONS,
    MODALITY_MASK,
    OBJECTIVES,
    TASKS,
    BatchAugment,
    Modality,
    PretrainedCfg,
)
from tfx_finetune.types.deployment import Compression, Export
from tfx_finetune.types.localization import SampleAugment
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.training import Objective

_DEFAULT_EXPORTS = "keras_file(), saved_model(), tflite(), tflite(quantize='float16')"
# The fields of a prediction beside its heads.
_RESERVED_HEAD_NAMES = {"file", "input", "error"}


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
    validate(run)
    check_strategy(run)
    plugins.load(run.plugins)
    assets.set_cache_dir(run.cache.dir)
    sources = parse_sources(run.data)
    check_mixture(run.mixture, [name for name in sources if name])
    if run.split.test + run.split.val >= 1:
        shares = f"{run.split.test} + {run.split.val}"
        raise UserError("--split.test and --split.val leave nothing to train on", got=shares)
    start = warm_start.open_init_bundle(run)
    towers = _parse_towers(warm_start.resolve_backbones(run, start))
    warm_start.check_towers(start, towers)
    modalities = {name: BACKBONES.get_modality(spec.name) for name, spec in towers.items()}
    growth = make_language_extension(run, start)
    heads = growth.heads if growth else _parse_heads(run.heads, run.heads_by)
    if taken := set(heads) & _RESERVED_HEAD_NAMES:
        raise UserError("a head cannot have this name, which a prediction needs", got=min(taken))
    drafts = {head: make_task_template(spec) for head, spec in heads.items()}
    if not growth:
        check_heads_by(drafts, run.heads_by)
    built = {kind: build_modality(run, kind, PretrainedCfg(size=1)) for kind in dict.fromkeys(modalities.values())}
    augments, mixes = _build_augments(run, towers, built)
    localization.check_heads(run, heads, drafts, modalities, augments, mixes)
    compressions = parse_compressions(run.compress)
    if compressions and any(draft.zero_shot for draft in drafts.values()):
        raise UserError("--compress takes heads of fixed classes", got=run.heads, expected="classify() or tag()")
    warm = gradual_unfreezing("frozen", disable_unfreezing(run.frozen) if growth else run.frozen, towers)
    resources = Resources(
        init_bundle=start,
        teachers=open_teachers(run, modalities, drafts),
        language_extension=growth,
        label_map=read_label_map(run, drafts, sources),
    )
    plan = Plan(
        run=run,
        sources=sources,
        towers=towers,
        modalities=modalities,
        fusion=FUSIONS.build(parse_spec(run.fusion)) if len(towers) > 1 else None,
        heads=heads,
        task_templates=drafts,
        heads_by=growth.heads_by if growth else run.heads_by,
        augments=augments,
        batch_augments=mixes,
        compressions=compressions,
        exports=_build_exports(run, built, compressions),
        constraints=parse_constraints(run.constraints),
        phases=warm if growth else warm | gradual_unfreezing("finetune", run.finetune, towers),
        workdir=Path(run.workdir or Path("runs") / _make_slug(sources)),
        label_translations=infer_source(run.label_translations) if run.label_translations else None,
        auxiliary_losses=_build_auxiliary_losses(run.auxiliary_losses, mixes),
    )
    return plan, resources


def _parse_heads(specs: str, heads_by: str) -> dict[str, Spec]:
    """Return the heads by name; a single head without a name is named after its column.

    With `--heads_by`, a single head without a name stands for one head per value of that column.
    """
    heads = parse_named_specs(specs, default="")
    if not heads:
        raise UserError("No head given", expected=sorted(TASKS))
    if typed := [str(spec) for spec in heads.values() if "heads_by" in spec.kwargs]:
        raise UserError(
            "The option heads_by of a head is set by --heads_by", got=typed[0], hint="say --heads_by=language"
        )
    if heads_by and list(heads) == [""]:
        (spec,) = heads.values()
        if "heads_by" in TASKS.get_signature(spec.name).parameters:
            heads = {"": Spec(spec.name, spec.args, {**spec.kwargs, "heads_by": heads_by})}
    return {name or make_task_template(spec).column: spec for name, spec in heads.items()}


def _parse_towers(specs: str) -> dict[str, Spec]:
    """The towers by name; a lone one without a name has that of its modality."""
    towers = parse_named_specs(specs, default="")
    if "" in towers:
        towers = {BACKBONES.get_modality(towers[""].name): towers[""]}
    if MODALITY_MASK in towers:
        raise UserError("a tower cannot have this name, which is that of another input", got=MODALITY_MASK)
    for spec in towers.values():
        BACKBONES.resolve_options(spec)  # raises for a malformed spec
    return towers


def _build_exports(
    run: Run, modalities: Mapping[str, Modality], compressions: Mapping[str, Compression]
) -> dict[str, Export]:
    """The files to write, by spec string, each once."""
    rounded = any(compression.name == "qat" for compression in compressions.values())
    specs = _make_default_exports(modalities, rounded) if run.exports == "default" else run.exports
    exports = {str(spec): EXPORTS.build(spec) for spec in parse_specs(specs)}
    formats = [export.format for export in exports.values()]
    if len(set(formats)) < len(formats):
        raise UserError("--exports writes a file twice", got=formats)
    chosen = [spec for spec, export in exports.items() if export.selective]
    if chosen and rounded:
        # Its ranges were trained with the network: without them there is nothing to choose among.
        todo = "leave selective=True out, or qat()"
        raise UserError("qat() leaves no layer to be chosen", got=", ".join(chosen), hint=todo)
    return exports


def _make_default_exports(modalities: Mapping[str, Modality], rounded: bool) -> str:
    """Pixels alone have eight bits: of other inputs what needs more stays float, unless trained to be rounded."""
    other = any(modality.dtype != "uint8" for modality in modalities.values())
    selective = ", selective=True" if other and not rounded else ""
    return f"{_DEFAULT_EXPORTS}, tflite(quantize='int8'{selective})"


def _build_augments(
    run: Run, towers: Mapping[str, Spec], modalities: Mapping[str, Modality]
) -> tuple[dict[str, tuple[str, SampleAugment]], tuple[BatchAugment, ...]]:
    """The changes of single samples, each with its modality, and those of batches."""
    usual = ", ".join(filter(None, (modality.default_augments for modality in modalities.values())))
    specs = parse_specs(usual if run.augment == "default" else run.augment)
    found = {str(spec): (AUGMENTS.get_modality(spec.name), AUGMENTS.build(spec)) for spec in specs}
    mixes = tuple(augment for _, augment in found.values() if isinstance(augment, BatchAugment))
    if mixes and len(towers) > 1:
        received = ", ".join(spec for spec, (_, augment) in found.items() if isinstance(augment, BatchAugment))
        raise UserError("batches of several towers are not mixed", got=received, hint="leave it out")
    singles = {
        spec: (kind, augment) for spec, (kind, augment) in found.items() if not isinstance(augment, BatchAugment)
    }
    for spec, (kind, _) in singles.items():
        if kind not in modalities:
            what = "an augment for what no tower takes"
            raise UserError(what, got=f"{spec} ({kind})", expected=list(modalities), hint="leave it out")
    return singles, mixes


def _build_auxiliary_losses(specs: str, batch_augments: tuple[BatchAugment, ...]) -> dict[str, Objective]:
    """What is learned beside the labels, each once."""
    listed = parse_specs(specs)
    found = {spec.name: OBJECTIVES.build(spec) for spec in listed}
    if len(found) < len(listed):
        raise UserError("--auxiliary_losses names one twice", got=specs)
    if found and batch_augments:
        todo = "leave mixup() and cutmix() out"
        raise UserError("batches with --auxiliary_losses are not mixed", got=specs, hint=todo)
    return found


def _make_slug(sources: Mapping[str, Spec]) -> str:
    if "" not in sources:
        return "_".join(sources)
    source = sources[""]
    said = [str(value) for value in source.args] + [v for k, v in source.kwargs.items() if k == "path"]
    text = Path(said[0]).name if said and said[0] else source.name
    return re.sub(r"[^\w.-]+", "_", text) or source.name
