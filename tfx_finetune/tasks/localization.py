"""Heads that say where in a picture something is: their targets, which move with it, and what they look at."""

from collections.abc import Mapping, Sequence

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import multi_sample
from tfx_finetune.types.components import Backbone, Mix, Task
from tfx_finetune.types.localization import Change


def check(
    run: Run,
    heads: Mapping[str, Spec],
    drafts: Mapping[str, Task],
    towers: Mapping[str, str],
    augments: Mapping[str, tuple[str, Change]],
    mixes: Sequence[Mix],
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
    multi_sample.check(augments, drafts)
    found = [heads[head] for head, draft in drafts.items() if draft.places]
    if not found:
        return
    shown = ", ".join(map(str, found))
    if list(towers.values()) != ["image"]:
        received = f"{shown} on {', '.join(towers)}"
        raise UserError("a head that finds things in pictures takes one tower of pictures", received=received)
    if len({spec.name for spec in found}) < len(found):
        raise UserError("two heads that find the same in pictures", received=shown, allowed="one of each kind")
    if mixes:
        received, todo = f"--augment={run.augment} beside {shown}", "leave mixup() and cutmix() out"
        raise UserError("what is found in pictures cannot be mixed", received=received, todo=todo)
    unable = {"--teacher": run.teacher, "--objectives": run.objectives, "--route": run.route, "--names": run.names}
    if flag := next((flag for flag, value in unable.items() if value), ""):
        received, todo = f"{flag}={unable[flag]} beside {shown}", f"leave {flag} out"
        raise UserError("a head that finds things in pictures cannot do this", received=received, todo=todo)


def check_side(backbone: Backbone, tasks: Mapping[str, Task]) -> None:
    """Raises a `UserError` where the side of a backbone's pictures is no multiple of a head's finest stride."""
    side = backbone.card.size
    for head, places in ((head, task.places) for head, task in tasks.items() if task.places):
        stride = 2 ** int(places.levels[0][1:])
        if side % stride:
            received, allowed = f"{side} pixels for {head}", f"a multiple of {stride}"
            what, todo = "a size of pictures that their places do not divide", f"say --image.size={side // 32 * 32}"
            raise UserError(what, received=received, allowed=allowed, todo=todo)


def levels(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """What heads look at of a pyramid, from fine to coarse."""
    return tuple(sorted({level for task in tasks.values() if task.places for level in task.places.levels}))


def limits(tasks: Mapping[str, Task]) -> dict[str, str]:
    """What heads may be told with a request, with the type; see `Places.limits`."""
    return {name: kind for task in tasks.values() if task.places for name, kind in task.places.limits.items()}
