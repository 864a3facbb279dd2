"""Outputs of a model, by head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfx_finetune.types.aliases import Batch, HeadFn
from tfx_finetune.types.localization import Letterbox

if TYPE_CHECKING:
    from tfx_finetune.types.aliases import HeadFn, PostprocessFn, Tensor
    from tfx_finetune.types.components import Modality
    from tfx_finetune.types.task import Task


def select_head_outputs(outputs: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Outputs `<head>/<name>` of one head, by their names alone."""
    return {name.removeprefix(f"{head}/"): value for name, value in outputs.items() if name.startswith(f"{head}/")}


def replace_outputs(outputs: Mapping[str, Any], replacements: Mapping[str, HeadFn]) -> dict[str, Any]:
    """Outputs by name, those of some heads replaced by what is made of them.

    Args:
        outputs: `<head>/<name>`.
        made: By head: its own outputs, by their names alone -> others.
    """
    found = {
        name: value for name, value in outputs.items() if not any(name.startswith(f"{head}/") for head in replacements)
    }
    for head, make in replacements.items():
        found |= {f"{head}/{name}": value for name, value in make(select_head_outputs(outputs, head)).items()}
    return found


def postprocess_outputs(tasks: Mapping[str, Task], outputs: Batch) -> Batch:
    """Decoded outputs as scores are computed of them: of what is found in pictures, `Task.read`."""

    def read(task: Task) -> HeadFn:
        return lambda own: {"scores": task.postprocess(own)}

    return replace_outputs(outputs, {head: read(task) for head, task in tasks.items() if task.localization})


def to_original_image(boxes: Tensor, sizes: Tensor, letterbox: Callable[[Tensor], Letterbox]) -> Tensor:
    """Boxes (batch, n, 4) in shares of the prepared picture as shares of the pictures of these sizes, (batch, 2)."""

    def one(each: tuple[Tensor, Tensor]) -> Tensor:
        corners, size = each
        scale, offset, side = letterbox(size)
        place = (corners * side - tf.tile(offset[::-1], (2,))) / tf.tile(
            (scale * tf.cast(size, tf.float32))[::-1], (2,)
        )
        return tf.clip_by_value(place, 0.0, 1.0)

    return tf.map_fn(one, (boxes, sizes), fn_output_signature=boxes.dtype)


def make_postprocess_fns(
    postprocess_fns: Mapping[str, PostprocessFn],
    modalities: Mapping[str, Modality],
    sizes: Mapping[str, Tensor],
    nms_inputs: Mapping[str, Tensor] | None = None,
) -> dict[str, HeadFn]:
    """What heads find (see `Places.found`), boxes in shares of the pictures that came where their sizes are known.

    Args:
        found: By head.
        modalities: By tower.
        sizes: Heights and widths of pictures by tower, (batch, 2).
        limits: See `Places.limits`; None for the heads' own.
    """

    def placed(find: PostprocessFn, own: dict[str, Tensor]) -> dict[str, Tensor]:
        answer = find(own, nms_inputs)
        for tower, size in sizes.items():
            if "boxes" in answer and (lay := modalities[tower].letterbox):
                answer["boxes"] = to_original_image(answer["boxes"], size, lay)
        return answer

    return {head: functools.partial(placed, find) for head, find in postprocess_fns.items()}
