"""Checks and inputs of the detection and segmentation heads of a run."""

from collections.abc import Mapping, Sequence

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import multi_sample
from tfx_finetune.types.components import Backbone, BatchAugment
from tfx_finetune.types.localization import SampleAugment
from tfx_finetune.types.task import Task


def check_heads(
    run: Run,
    heads: Mapping[str, Spec],
    task_templates: Mapping[str, Task],
    towers: Mapping[str, str],
    augments: Mapping[str, tuple[str, SampleAugment]],
    batch_augments: Sequence[BatchAugment],
) -> None:
    """Check that the detection and segmentation heads fit the other options of a run.

    Args:
        run: Configuration.
        heads: Task specs by head.
        task_templates: Tasks by head, built for two classes.
        towers: Modality by tower.
        augments: Sample augments with their modality, by spec.
        batch_augments: Batch augments.

    Raises:
        UserError: If the model does not have exactly one tower for images, or if another option does not support such
            a head.
    """
    multi_sample.check_augments(augments, task_templates)
    specs = [heads[head] for head, template in task_templates.items() if template.localization]
    if not specs:
        return
    head_list = ", ".join(map(str, specs))
    if list(towers.values()) != ["image"]:
        got = f"{head_list} on {', '.join(towers)}"
        raise UserError("A detection or segmentation head needs a model with one image input", got=got)
    if len({spec.name for spec in specs}) < len(specs):
        raise UserError("Two heads have the same detection or segmentation task", got=head_list, expected="one of each")
    if batch_augments:
        got, hint = f"--augment={run.augment} with {head_list}", "leave out mixup() and cutmix()"
        raise UserError("Augments that mix images do not support detection and segmentation", got=got, hint=hint)
    unsupported = {
        "--teacher": run.teacher,
        "--auxiliary_losses": run.auxiliary_losses,
        "--heads_by": run.heads_by,
        "--label_translations": run.label_translations,
    }
    if flag := next((flag for flag, value in unsupported.items() if value), ""):
        got, hint = f"{flag}={unsupported[flag]} with {head_list}", f"leave out {flag}"
        raise UserError(f"{flag} does not support detection and segmentation heads", got=got, hint=hint)


def check_input_size(backbone: Backbone, tasks: Mapping[str, Task]) -> None:
    """Check that the side of a backbone's input is a multiple of the finest stride of each head.

    Raises:
        UserError: If it is not.
    """
    side = backbone.pretrained_cfg.size
    for head, target in ((head, task.localization) for head, task in tasks.items() if task.localization):
        stride = 2 ** int(target.levels[0][1:])
        if side % stride:
            message = f"The input size does not fit the head {head}"
            hint = f"set the backbone's size to {side // 32 * 32}"
            raise UserError(message, got=f"{side} pixels", expected=f"a multiple of {stride}", hint=hint)


def list_pyramid_levels(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """List the pyramid levels that the heads read, from fine to coarse."""
    return tuple(sorted({level for task in tasks.values() if task.localization for level in task.localization.levels}))


def collect_nms_inputs(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Return name -> dtype of the thresholds that requests may set; see `LocalizationTarget.nms_inputs`."""
    return {
        name: dtype
        for task in tasks.values()
        if task.localization
        for name, dtype in task.localization.nms_inputs.items()
    }
