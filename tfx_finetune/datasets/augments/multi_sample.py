"""Augments that combine several training images with their masks and boxes into one."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfx_finetune.datasets.augments.common import check_options, sample_beta
from tfx_finetune.ops.geometry import BOX_FIELDS, MIN_VISIBLE, has_boxes, has_mask, tile_hw, zoom
from tfx_finetune.ops.image import round_to_uint8
from tfx_finetune.types.components import AUGMENTS
from tfx_finetune.types.localization import MultiSampleAugment

_PASTE_PROBABILITY = 0.5


@AUGMENTS.register
def mosaic(
    probability: float = 0.5, center: tuple[float, float] = (0.25, 0.75), min_visible: float = MIN_VISIBLE
) -> MultiSampleAugment:
    """Tile four images around a random point (YOLOv4, Bochkovskiy et al., arXiv 2004.10934, section 3.4).

    Each image fills its tile. Its random scale lies between the smallest one that fills the tile and the one that
    fits the whole canvas.

    Args:
        probability: float, 0 to 1. Probability of a mosaic. Default 0.5.
        center: Two floats between 0 and 1. Range of the vertical and horizontal position of the point, as a fraction
            of the image. Default (0.25, 0.75).
        min_visible: float, 0 to 1. Objects of which a smaller fraction is visible become crowd regions. Default 0.25.
    """
    check_options(
        "mosaic",
        0 <= probability <= 1 and 0 < center[0] <= center[1] < 1 and 0 <= min_visible <= 1,
        "0 <= probability <= 1, 0 < min <= max < 1 for center, 0 <= min_visible <= 1",
        probability=probability,
        center=center,
        min_visible=min_visible,
    )

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        canvas_size = tf.maximum(tf.shape(sample["image"])[:2], 2)
        random = tf.random.stateless_uniform((5, 3), seed)
        point = center[0] + random[4, :2] * (center[1] - center[0])
        pixel = tf.cast(tf.round(point * tf.cast(canvas_size, tf.float32)), tf.int32)
        pixel = tf.clip_by_value(pixel, 1, canvas_size - 1)
        starts, lengths = (tf.zeros_like(pixel), pixel), (pixel, canvas_size - pixel)
        tiles = []
        for index, source in enumerate([sample, *partners]):
            row, column = divmod(index, 2)
            start, size = (tf.stack([values[row][0], values[column][1]]) for values in (starts, lengths))
            min_factor = _compute_resize_factor(source, size, tf.reduce_max)
            max_factor = tf.maximum(_compute_resize_factor(source, canvas_size, tf.reduce_min), min_factor)
            factor = min_factor * (max_factor / min_factor) ** random[index, 2]
            tile = zoom(source, size, factor, random[index, :2], min_visible)
            tiles.append(_offset_boxes(tile, start, size, canvas_size))
        canvas = {}
        for name in ("image", "mask") if has_mask(sample) else ("image",):
            top_left, top_right, bottom_left, bottom_right = (tile[name] for tile in tiles)
            rows = [tf.concat([top_left, top_right], 1), tf.concat([bottom_left, bottom_right], 1)]
            canvas[name] = tf.concat(rows, 0)
        return sample | canvas | (_concatenate_boxes(tiles) if has_boxes(sample) else {})

    return MultiSampleAugment(3, probability, apply)


@AUGMENTS.register
def mixup_scenes(probability: float = 0.5, alpha: float = 8.0) -> MultiSampleAugment:
    """Blend two images and keep the objects of both (Bag of Freebies, Zhang et al., arXiv 1902.04103).

    The second image is fitted into the first one at constant aspect ratio. An object of the fainter image has the same
    weight in the loss as one of the stronger image, so the blending weight is near 0.5. The mask is that of the
    stronger image.

    Args:
        probability: float, 0 to 1. Probability of a blend. Default 0.5.
        alpha: float > 0. Parameter of the distribution Beta(alpha, alpha) of the blending weight: the larger, the
            nearer to 0.5. Default 8.
    """
    check_options(
        "mixup_scenes",
        0 <= probability <= 1 and alpha > 0,
        "0 <= probability <= 1, alpha > 0",
        probability=probability,
        alpha=alpha,
    )

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        size, (partner,) = tf.shape(sample["image"])[:2], partners
        position = tf.random.stateless_uniform((2,), tf.random.experimental.stateless_fold_in(seed, 1))
        other = zoom(partner, size, _compute_resize_factor(partner, size, tf.reduce_min), position)
        lam = sample_beta(alpha, seed)
        pixels, other_pixels = (tf.cast(source["image"], tf.float32) for source in (sample, other))
        blended = {"image": round_to_uint8(lam * pixels + (1 - lam) * other_pixels)}
        if has_mask(sample):
            blended["mask"] = tf.where(lam >= 0.5, sample["mask"], other["mask"])
        return sample | blended | (_concatenate_boxes([sample, other]) if has_boxes(sample) else {})

    return MultiSampleAugment(1, probability, apply)


@AUGMENTS.register
def copy_paste(
    probability: float = 0.5, scale: tuple[float, float] = (0.5, 1.5), min_visible: float = MIN_VISIBLE
) -> MultiSampleAugment:
    """Paste about half of the objects of another image by its mask (Ghiasi et al., arXiv 2012.07177).

    A mask has classes, not instances. If the data has boxes as well, an object is the set of pixels of its class in its
    box. Without boxes, all pixels of a class other than the background are pasted together. Pixels are not blended,
    since the paper reports no gain from it. The box of a covered object shrinks, becomes a crowd region, or is removed
    if no pixel is visible.

    Args:
        probability: float, 0 to 1. Probability of a paste. Default 0.5.
        scale: Two floats >= 0.1. Range of the log-uniform scale factor of the other image, relative to the scale that
            fits it into the image. Default (0.5, 1.5).
        min_visible: float, 0 to 1. Objects of which a smaller fraction is visible become crowd regions. Default 0.25.
    """
    check_options(
        "copy_paste",
        0 <= probability <= 1 and 0.1 <= scale[0] <= scale[1] and 0 <= min_visible <= 1,
        "0 <= probability <= 1, 0.1 <= min <= max for scale, 0 <= min_visible <= 1",
        probability=probability,
        scale=scale,
        min_visible=min_visible,
    )

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        size, (partner,) = tf.shape(sample["image"])[:2], partners
        random = tf.random.stateless_uniform((3,), seed)
        low, high = (math.log(factor) for factor in scale)
        factor = _compute_resize_factor(partner, size, tf.reduce_min) * tf.exp(low + random[2] * (high - low))
        other = zoom(partner, size, factor, random[:2], min_visible)
        seed = tf.random.experimental.stateless_fold_in(seed, 1)
        if has_boxes(sample):
            paste_mask, other_boxes = _sample_object_pixels(sample, other, seed)
            visible_boxes = _find_visible_boxes(sample, paste_mask, min_visible)
            boxes = {name: tf.concat([visible_boxes[name], other_boxes[name]], 0) for name in visible_boxes}
        else:
            paste_mask, boxes = _sample_class_pixels(sample, other, seed), {}
        merged = {name: tf.where(paste_mask[..., None], other[name], sample[name]) for name in ("image", "mask")}
        return sample | merged | boxes

    return MultiSampleAugment(1, probability, apply, needs_masks=True)


def _compute_resize_factor(
    sample: dict[str, Any], size: tf.Tensor, reduce: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Compute the factor by which an image fills a size (`tf.reduce_max`) or fits into it (`tf.reduce_min`)."""
    return tf.cast(reduce(size / tf.shape(sample["image"])[:2]), tf.float32)


def _offset_boxes(sample: dict[str, Any], start: tf.Tensor, size: tf.Tensor, canvas_size: tf.Tensor) -> dict[str, Any]:
    """Convert the boxes of a tile of a given start and size to fractions of the canvas."""
    if not has_boxes(sample):
        return sample
    start, size, canvas_size = (tile_hw(value) for value in (start, size, canvas_size))
    return sample | {"boxes": (sample["boxes"] * size + start) / canvas_size}


def _concatenate_boxes(samples: Sequence[dict[str, Any]]) -> dict[str, tf.Tensor]:
    return {name: tf.concat([sample[name] for sample in samples], 0) for name in BOX_FIELDS}


def _sample_class_pixels(sample: dict[str, Any], other: dict[str, Any], seed: tf.Tensor) -> tf.Tensor:
    """Choose random classes and return the mask bool (height, width) of their pixels in the other image."""
    is_pasted = (tf.random.stateless_uniform((256,), seed) < _PASTE_PROBABILITY) & sample["things"]
    return tf.gather(is_pasted, tf.cast(other["mask"][..., 0], tf.int32))


def _sample_object_pixels(
    sample: dict[str, Any], other: dict[str, Any], seed: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Choose random objects of the other image.

    Returns:
        Mask bool (height, width) of their pixels, and their boxes. If a part of another object of the same class lies
        inside the mask, that part is a crowd region.
    """
    values = tf.gather(sample["values"], other["classes"])
    is_sampled = tf.random.stateless_uniform(tf.shape(values), seed) < _PASTE_PROBABILITY
    is_pasted = is_sampled & ~other["crowd"] & (values >= 0)
    mask = other["mask"][..., 0]

    def add_object(paste_mask: tf.Tensor, box_and_value: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return paste_mask | _make_object_mask(mask, *box_and_value)

    objects = (tf.boolean_mask(other["boxes"], is_pasted), tf.boolean_mask(values, is_pasted))
    paste_mask = tf.foldl(add_object, objects, initializer=tf.zeros_like(mask, tf.bool))
    counts, extents = _measure_visible(mask, paste_mask, other["boxes"], values)
    boxes = {"boxes": extents, "classes": other["classes"], "crowd": ~is_pasted}
    return paste_mask, {name: tf.boolean_mask(value, (counts > 0) & (values >= 0)) for name, value in boxes.items()}


def _find_visible_boxes(sample: dict[str, Any], paste_mask: tf.Tensor, min_visible: float) -> dict[str, tf.Tensor]:
    """Shrink the boxes of a sample to the pixels that are not covered.

    If masks do not have the class of a box, all pixels in the box count as its object.
    """
    values = tf.gather(sample["values"], sample["classes"])
    mask = sample["mask"][..., 0]
    before, _ = _measure_visible(mask, tf.ones_like(paste_mask), sample["boxes"], values)
    after, extents = _measure_visible(mask, ~paste_mask, sample["boxes"], values)
    visible = tf.cast(after, tf.float32) / tf.maximum(tf.cast(before, tf.float32), 1)
    boxes = {
        "boxes": tf.where((after < before)[:, None], extents, sample["boxes"]),
        "classes": sample["classes"],
        "crowd": sample["crowd"] | ((before > 0) & (visible < min_visible)),
    }
    return {name: tf.boolean_mask(value, (before == 0) | (after > 0)) for name, value in boxes.items()}


def _make_object_mask(mask: tf.Tensor, box: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Return the mask bool (height, width) of the pixels of a value, or of any value if it is -1, that touch a box."""
    full_size = tf.cast(tf.gather(tf.shape(mask), [1, 0]), tf.float32)
    # The margin is for float32 coordinates, which have seven digits.
    first, last = tf.floor(box[:2] * full_size + 1e-3), tf.math.ceil(box[2:] * full_size - 1e-3)
    columns, rows = (
        (indices >= first[axis]) & (indices < last[axis])
        for axis, indices in enumerate([tf.range(full_size[0]), tf.range(full_size[1])])
    )
    return rows[:, None] & columns[None, :] & ((tf.cast(mask, tf.int32) == value) | (value < 0))


def _measure_visible(
    mask: tf.Tensor, visible: tf.Tensor, boxes: tf.Tensor, values: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Count the visible pixels int32 (n,) of objects and compute the boxes float32 (n, 4) around them."""
    height, width = (tf.cast(length, tf.float32) for length in tf.unstack(tf.shape(mask)))

    def measure(box_and_value: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        object_mask = _make_object_mask(mask, *box_and_value) & visible
        left, right = _find_true_range(tf.reduce_any(object_mask, 0))
        top, bottom = _find_true_range(tf.reduce_any(object_mask, 1))
        box = tf.cast(tf.stack([left, top, right, bottom]), tf.float32) / tf.stack([width, height, width, height])
        return tf.math.count_nonzero(object_mask, dtype=tf.int32), box

    spec = (tf.TensorSpec((), tf.int32), tf.TensorSpec((4,), tf.float32))
    return tf.map_fn(measure, (boxes, values), fn_output_signature=spec)


def _find_true_range(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first true index and the last true index + 1, int64; 0 and the size if no value is true."""
    return tf.argmax(mask), tf.size(mask, tf.int64) - tf.argmax(mask[::-1])
