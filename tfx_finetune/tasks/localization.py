"""Heads that say where in a picture something is: their targets, which move with it, and what they look at."""

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
    """Checks that such heads of a run stand where they can.

    Args:
        run: The configuration.
        heads: Specs by name.
        drafts: The same, as they would be for two classes.
        towers: Modality by tower.
        augments: Changes of single samples, with their modality, by spec.
        mixes: Changes of whole batches.

    Raises:
        UserError: There are several towers, or one that is none of pictures, or the run wants what such a head cannot
            do.
    """
    multi_sample.check_augments(augments, task_templates)
    found = [heads[head] for head, draft in task_templates.items() if draft.localization]
    if not found:
        return
    shown = ", ".join(map(str, found))
    if list(towers.values()) != ["image"]:
        received = f"{shown} on {', '.join(towers)}"
        raise UserError("a head that finds things in pictures takes one tower of pictures", got=received)
    if len({spec.name for spec in found}) < len(found):
        raise UserError("two heads that find the same in pictures", got=shown, expected="one of each kind")
    if batch_augments:
        received, todo = f"--augment={run.augment} beside {shown}", "leave mixup() and cutmix() out"
        raise UserError("what is found in pictures cannot be mixed", got=received, hint=todo)
    unable = {
        "--teacher": run.teacher,
        "--auxiliary_losses": run.auxiliary_losses,
        "--heads_by": run.heads_by,
        "--label_translations": run.label_translations,
    }
    if flag := next((flag for flag, value in unable.items() if value), ""):
        received, todo = f"{flag}={unable[flag]} beside {shown}", f"leave {flag} out"
        raise UserError("a head that finds things in pictures cannot do this", got=received, hint=todo)


def check_input_size(backbone: Backbone, tasks: Mapping[str, Task]) -> None:
    """Raises a `UserError` where the side of a backbone's pictures is no multiple of a head's finest stride."""
    side = backbone.pretrained_cfg.size
    for head, places in ((head, task.localization) for head, task in tasks.items() if task.localization):
        stride = 2 ** int(places.levels[0][1:])
        if side % stride:
            received, allowed = f"{side} pixels for {head}", f"a multiple of {stride}"
            what, todo = "a size of pictures that their places do not divide", f"say --image.size={side // 32 * 32}"
            raise UserError(what, got=received, expected=allowed, hint=todo)


def list_pyramid_levels(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """What heads look at of a pyramid, from fine to coarse."""
    return tuple(sorted({level for task in tasks.values() if task.localization for level in task.localization.levels}))


def collect_nms_inputs(tasks: Mapping[str, Task]) -> dict[str, str]:
    """What heads may be told with a request, with the type; see `Places.limits`."""
    return {
        name: kind
        for task in tasks.values()
        if task.localization
        for name, kind in task.localization.nms_inputs.items()
    }
