"""Functions on the outputs of a model, which are named `<head>/<name>`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfx_finetune.types.aliases import Batch, HeadFn
from tfx_finetune.types.localization import Letterbox

if TYPE_CHECKING:
    from tfx_finetune.types.aliases import PostprocessFn, Tensor
    from tfx_finetune.types.components import Modality
    from tfx_finetune.types.task import Task


def select_head_outputs(outputs: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Return the outputs of one head without the prefix of their names.

    Examples:
        >>> select_head_outputs({"animal/scores": 1, "color/scores": 2}, "color")
        {'scores': 2}
    """
    return {name.removeprefix(f"{head}/"): value for name, value in outputs.items() if name.startswith(f"{head}/")}


def replace_outputs(outputs: Mapping[str, Any], head_fns: Mapping[str, HeadFn]) -> dict[str, Any]:
    """Replace the outputs of some heads by the results of functions.

    Args:
        outputs: Outputs by `<head>/<name>`.
        head_fns: By head: function from the head's outputs to the new ones, names without prefix.

    Examples:
        >>> replace_outputs({"a/x": 1, "b/x": 2}, {"b": lambda outputs: {"y": 10 * outputs["x"]}})
        {'a/x': 1, 'b/y': 20}
    """
    result = {
        name: value for name, value in outputs.items() if not any(name.startswith(f"{head}/") for head in head_fns)
    }
    for head, head_fn in head_fns.items():
        result |= {f"{head}/{name}": value for name, value in head_fn(select_head_outputs(outputs, head)).items()}
    return result


def postprocess_outputs(tasks: Mapping[str, Task], outputs: Batch) -> Batch:
    """Apply `Task.postprocess` to the decoded outputs of detection and segmentation heads."""

    def make_head_fn(task: Task) -> HeadFn:
        return lambda head_outputs: {"scores": task.postprocess(head_outputs)}

    return replace_outputs(outputs, {head: make_head_fn(task) for head, task in tasks.items() if task.localization})


def to_original_image(boxes: Tensor, sizes: Tensor, letterbox: Callable[[Tensor], Letterbox]) -> Tensor:
    """Convert boxes from fractions of the model input to fractions of the original images.

    Args:
        boxes: (batch, n, 4). Left, top, right and bottom.
        sizes: int (batch, 2). Heights and widths of the original images.
        letterbox: See `Modality.letterbox`.
    """

    def convert_image(boxes_and_size: tuple[Tensor, Tensor]) -> Tensor:
        image_boxes, size = boxes_and_size
        scale, offset, side = letterbox(size)
        size_xy = (scale * tf.cast(size, tf.float32))[::-1]
        fractions = (image_boxes * side - tf.tile(offset[::-1], (2,))) / tf.tile(size_xy, (2,))
        return tf.clip_by_value(fractions, 0.0, 1.0)

    return tf.map_fn(convert_image, (boxes, sizes), fn_output_signature=boxes.dtype)


def make_postprocess_fns(
    postprocess_fns: Mapping[str, PostprocessFn],
    modalities: Mapping[str, Modality],
    sizes: Mapping[str, Tensor],
    nms_inputs: Mapping[str, Tensor] | None = None,
) -> dict[str, HeadFn]:
    """Return postprocessing functions by head whose boxes are fractions of the original images, if these are known.

    Args:
        postprocess_fns: `LocalizationTarget.postprocess_fn` by head.
        modalities: Modalities by tower.
        sizes: Heights and widths of the original images by tower, (batch, 2); empty if unknown.
        nms_inputs: Thresholds of a request, see `LocalizationTarget.nms_inputs`; None for those of the heads.
    """

    def postprocess(postprocess_fn: PostprocessFn, head_outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        predictions = postprocess_fn(head_outputs, nms_inputs)
        for tower, size in sizes.items():
            if "boxes" in predictions and (letterbox := modalities[tower].letterbox):
                predictions["boxes"] = to_original_image(predictions["boxes"], size, letterbox)
        return predictions

    return {head: functools.partial(postprocess, function) for head, function in postprocess_fns.items()}
