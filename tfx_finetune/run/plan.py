"""Validates the options of a run before weights or data are read, and resolves its specs."""

import re
from collections.abc import Mapping
from pathlib import Path

from tfx_finetune.compression import parse_compressions
from tfx_finetune.core import assets, plugins
from tfx_finetune.core.config import Phase, Run
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
from tfx_finetune.tasks.routing import check_heads_by, make_task_template
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
# Other fields of a prediction.
_RESERVED_HEAD_NAMES = {"file", "input", "error"}


def check(run: Run) -> Plan:
    """Validate the options of a run as a whole and resolve its specs.

    Raises:
        UserError: If the options cannot be used; the first error is named.
    """
    return open_run(run)[0]


def open_run(run: Run) -> tuple[Plan, Resources]:
    """Validate the options of a run as `check` does, and return the opened bundles and tables as well.

    Raises:
        UserError: If the options cannot be used; the first error is named.
    """
    validate(run)
    check_strategy(run)
    plugins.load(run.plugins)
    assets.set_cache_dir(run.cache.dir)
    sources = parse_sources(run.data)
    check_mixture(run.mixture, [name for name in sources if name])
    if run.split.test + run.split.val >= 1:
        message = "--split.test and --split.val leave no training samples"
        raise UserError(message, got=f"{run.split.test} + {run.split.val}", expected="a sum below 1")

    # The bundle of --init has default backbones, and the heads that --add_language extends.
    init_bundle = warm_start.open_init_bundle(run.init)
    towers = _parse_towers(warm_start.resolve_backbones(run.backbone, init_bundle))
    warm_start.check_towers(init_bundle, towers)
    language_extension = make_language_extension(run, init_bundle)
    heads = language_extension.heads if language_extension else _parse_heads(run.heads, run.heads_by)
    if reserved := set(heads) & _RESERVED_HEAD_NAMES:
        raise UserError("The name of a head is reserved for a field of predictions", got=min(reserved))
    task_templates = {head: make_task_template(spec) for head, spec in heads.items()}
    if not language_extension:
        check_heads_by(task_templates, run.heads_by)

    modality_of_tower = {name: BACKBONES.get_modality(spec.name) for name, spec in towers.items()}
    names = dict.fromkeys(modality_of_tower.values())
    modalities = {name: build_modality(run, name, PretrainedCfg(size=1)) for name in names}
    augments, batch_augments = _build_augments(run.augment, towers, modalities)
    localization.check_heads(run, heads, task_templates, modality_of_tower, augments, batch_augments)
    compressions = parse_compressions(run.compress)
    if compressions and any(template.zero_shot for template in task_templates.values()):
        message = "--compress needs heads with fixed classes"
        raise UserError(message, got=f"--heads={run.heads}", expected="classify() or tag()")
    plan = Plan(
        run=run,
        sources=sources,
        towers=towers,
        modalities=modality_of_tower,
        fusion=FUSIONS.build(parse_spec(run.fusion)) if len(towers) > 1 else None,
        heads=heads,
        task_templates=task_templates,
        heads_by=language_extension.heads_by if language_extension else run.heads_by,
        augments=augments,
        batch_augments=batch_augments,
        compressions=compressions,
        exports=_build_exports(run.exports, modalities, compressions),
        constraints=parse_constraints(run.constraints),
        phases=_make_phases(run, towers, is_extension=language_extension is not None),
        workdir=Path(run.workdir or Path("runs") / _make_slug(sources)),
        label_translations=infer_source(run.label_translations) if run.label_translations else None,
        auxiliary_losses=_build_auxiliary_losses(run.auxiliary_losses, batch_augments),
    )
    resources = Resources(
        init_bundle=init_bundle,
        teachers=open_teachers(run.teacher, modality_of_tower, task_templates),
        language_extension=language_extension,
        label_map=read_label_map(run.label_map, task_templates, sources),
    )
    return plan, resources


def _make_phases(run: Run, towers: Mapping[str, Spec], is_extension: bool) -> dict[str, Phase]:
    """Return the training phases; the heads of a language extension are trained on frozen towers alone."""
    if is_extension:
        return gradual_unfreezing("frozen", disable_unfreezing(run.frozen), towers)
    return gradual_unfreezing("frozen", run.frozen, towers) | gradual_unfreezing("finetune", run.finetune, towers)


def _parse_heads(specs: str, heads_by: str) -> dict[str, Spec]:
    """Return the heads by name; a single head without a name is named after its column.

    With `--heads_by`, a single head without a name stands for one head per value of that column.
    """
    heads = parse_named_specs(specs, default="")
    if not heads:
        raise UserError("--heads names no head", expected=sorted(TASKS))
    if typed := [str(spec) for spec in heads.values() if "heads_by" in spec.kwargs]:
        message = "The option heads_by of a head is set by --heads_by"
        raise UserError(message, got=typed[0], hint="say --heads_by=language")
    if heads_by and list(heads) == [""]:
        (spec,) = heads.values()
        if "heads_by" in TASKS.get_signature(spec.name).parameters:
            heads = {"": Spec(spec.name, spec.args, {**spec.kwargs, "heads_by": heads_by})}
    return {name or make_task_template(spec).column: spec for name, spec in heads.items()}


def _parse_towers(specs: str) -> dict[str, Spec]:
    """Return the towers by name; a single tower without a name is named after its modality."""
    towers = parse_named_specs(specs, default="")
    if "" in towers:
        towers = {BACKBONES.get_modality(towers[""].name): towers[""]}
    if MODALITY_MASK in towers:
        raise UserError("The name of a tower is reserved for another model input", got=MODALITY_MASK)
    for spec in towers.values():
        BACKBONES.resolve_options(spec)  # raises an error for a malformed spec
    return towers


def _build_exports(
    specs: str, modalities: Mapping[str, Modality], compressions: Mapping[str, Compression]
) -> dict[str, Export]:
    """Return the exported formats by spec string."""
    is_quantized = any(compression.name == "qat" for compression in compressions.values())
    if specs == "default":
        specs = _make_default_exports(modalities, is_quantized)
    exports = {str(spec): EXPORTS.build(spec) for spec in parse_specs(specs)}
    formats = [export.format for export in exports.values()]
    if len(set(formats)) < len(formats):
        raise UserError("--exports writes a file twice", got=", ".join(formats))
    selective = [spec for spec, export in exports.items() if export.selective]
    if selective and is_quantized:
        # Quantization-aware training has fixed the ranges of all layers.
        message = "selective=True cannot be combined with qat(), which has fixed the quantization ranges"
        raise UserError(message, got=", ".join(selective), hint="remove selective=True or qat()")
    return exports


def _make_default_exports(modalities: Mapping[str, Modality], is_quantized: bool) -> str:
    """Return the default exports: int8 files of inputs other than pixels keep sensitive layers in float.

    Only pixels have 8 bits. Quantization-aware training needs no float layers.
    """
    has_float_inputs = any(modality.dtype != "uint8" for modality in modalities.values())
    selective = ", selective=True" if has_float_inputs and not is_quantized else ""
    return f"{_DEFAULT_EXPORTS}, tflite(quantize='int8'{selective})"


def _build_augments(
    specs: str, towers: Mapping[str, Spec], modalities: Mapping[str, Modality]
) -> tuple[dict[str, tuple[str, SampleAugment]], tuple[BatchAugment, ...]]:
    """Return the augments of single samples, each with its modality, and the augments of batches."""
    if specs == "default":
        specs = ", ".join(filter(None, (modality.default_augments for modality in modalities.values())))
    built = {str(spec): (AUGMENTS.get_modality(spec.name), AUGMENTS.build(spec)) for spec in parse_specs(specs)}
    batch_augments = {spec: augment for spec, (_, augment) in built.items() if isinstance(augment, BatchAugment)}
    if batch_augments and len(towers) > 1:
        message = "Augments of batches need a model with one tower"
        raise UserError(message, got=", ".join(batch_augments), hint="leave them out")
    augments = {spec: pair for spec, pair in built.items() if spec not in batch_augments}
    for spec, (modality, _) in augments.items():
        if modality not in modalities:
            message = "An augment is for a modality that no tower has"
            raise UserError(message, got=f"{spec} ({modality})", expected=list(modalities), hint="leave it out")
    return augments, tuple(batch_augments.values())


def _build_auxiliary_losses(specs: str, batch_augments: tuple[BatchAugment, ...]) -> dict[str, Objective]:
    """Return the auxiliary losses by name."""
    parsed = parse_specs(specs)
    auxiliary_losses = {spec.name: OBJECTIVES.build(spec) for spec in parsed}
    if len(auxiliary_losses) < len(parsed):
        raise UserError("--auxiliary_losses names a loss twice", got=specs)
    if auxiliary_losses and batch_augments:
        message = "--auxiliary_losses cannot be combined with mixed batches"
        raise UserError(message, got=specs, hint="leave mixup() and cutmix() out")
    return auxiliary_losses


def _make_slug(sources: Mapping[str, Spec]) -> str:
    """Return a name for the work folder: the names of the sources, or the last part of the path of a single one."""
    if "" not in sources:
        return "_".join(sources)
    source = sources[""]
    values = [str(value) for value in source.args] + [v for k, v in source.kwargs.items() if k == "path"]
    text = Path(values[0]).name if values and values[0] else source.name
    return re.sub(r"[^\w.-]+", "_", text) or source.name
