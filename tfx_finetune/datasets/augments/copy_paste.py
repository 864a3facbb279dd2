"""Copy-paste (Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method, arXiv 2012.07177)."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import MIN_VISIBLE, has_boxes, zoom
from tfx_finetune.types.components import AUGMENTS
from tfx_finetune.types.localization import MultiSampleAugment

_PASTE_PROBABILITY = 0.5


@AUGMENTS.register
def copy_paste(
    probability: float = 0.5, scale: tuple[float, float] = (0.5, 1.5), min_visible: float = MIN_VISIBLE
) -> MultiSampleAugment:
    """Pastes about half of what is in another picture, by its mask, and without blending, which brings nothing.

    A mask tells classes, not objects. Of a picture with boxes, too, an object is what has its class in its box; without
    boxes, all that is of one class is pasted or left, but for the background. What is covered loses its pixels: its box
    becomes smaller, or it becomes a crowd, or goes where nothing of it is left.

    Args:
        probability: Share of the samples, 0 to 1.
        scale: Range of the factor by which the other picture, made to fit, is enlarged, 0.1 or more; all between are
            equally likely on a logarithmic scale.
        min_visible: Objects of which a smaller share is seen become crowds, 0 to 1.
    """
    if not (0 <= probability <= 1 and 0.1 <= scale[0] <= scale[1] and 0 <= min_visible <= 1):
        received = f"probability={probability}, scale={scale}, min_visible={min_visible}"
        raise UserError("copy_paste is out of range", got=received, expected="0.1 <= least <= most, others 0 to 1")

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        size, (partner,) = tf.shape(sample["image"])[:2], partners
        drawn = tf.random.stateless_uniform((3,), seed)
        low, high = (math.log(each) for each in scale)
        fits = tf.reduce_min(tf.cast(size / tf.shape(partner["image"])[:2], tf.float32))
        other = zoom(partner, size, fits * tf.exp(low + drawn[2] * (high - low)), drawn[:2], min_visible)
        seed = tf.random.experimental.stateless_fold_in(seed, 1)
        pasted, boxes = (
            _sample_object_pixels(sample, other, seed)
            if has_boxes(sample)
            else (_sample_class_pixels(sample, other, seed), {})
        )
        found = {name: tf.where(pasted[..., None], other[name], sample[name]) for name in ("image", "mask")}
        if has_boxes(sample):
            left = _find_visible_boxes(sample, pasted, min_visible)
            boxes = {name: tf.concat([left[name], boxes[name]], 0) for name in left}
        return sample | found | boxes

    return MultiSampleAugment(1, probability, apply, needs_masks=True)


def _sample_class_pixels(sample: dict[str, Any], other: dict[str, Any], seed: tf.Tensor) -> tf.Tensor:
    """Pixels of the other picture that are to be pasted, bool (height, width): those of some of its classes."""
    chosen = (tf.random.stateless_uniform((256,), seed) < _PASTE_PROBABILITY) & sample["things"]
    return tf.gather(chosen, tf.cast(other["mask"][..., 0], tf.int32))


def _sample_object_pixels(
    sample: dict[str, Any], other: dict[str, Any], seed: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Pixels of the other picture that are to be pasted, bool (height, width), of some of its objects, and their boxes.

    Of an object that was not chosen a part may come along with one of its class: it is a crowd.
    """
    values = tf.gather(sample["values"], other["classes"])
    drawn = tf.random.stateless_uniform(tf.shape(values), seed) < _PASTE_PROBABILITY
    chosen = drawn & ~other["crowd"] & (values >= 0)
    mask = other["mask"][..., 0]

    def more(pasted: tf.Tensor, one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return pasted | _make_object_mask(mask, *one)

    some = (tf.boolean_mask(other["boxes"], chosen), tf.boolean_mask(values, chosen))
    pasted = tf.foldl(more, some, initializer=tf.zeros_like(mask, tf.bool))
    counts, extents = _measure_visible(mask, pasted, other["boxes"], values)
    there = (counts > 0) & (values >= 0)
    boxes = {"boxes": extents, "classes": other["classes"], "crowd": ~chosen}
    return pasted, {name: tf.boolean_mask(value, there) for name, value in boxes.items()}


def _find_visible_boxes(sample: dict[str, Any], pasted: tf.Tensor, min_visible: float) -> dict[str, tf.Tensor]:
    """What is left of the boxes of a sample; one whose class masks do not tell has all the pixels within."""
    values = tf.gather(sample["values"], sample["classes"])
    mask = sample["mask"][..., 0]
    before, _ = _measure_visible(mask, tf.ones_like(pasted), sample["boxes"], values)
    after, extents = _measure_visible(mask, ~pasted, sample["boxes"], values)
    share = tf.cast(after, tf.float32) / tf.maximum(tf.cast(before, tf.float32), 1)
    found = {
        "boxes": tf.where((after < before)[:, None], extents, sample["boxes"]),
        "classes": sample["classes"],
        "crowd": sample["crowd"] | ((before > 0) & (share < min_visible)),
    }
    return {name: tf.boolean_mask(value, (before == 0) | (after > 0)) for name, value in found.items()}


def _make_object_mask(mask: tf.Tensor, box: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """The pixels of a mask (height, width) that touch a box and have this value, any where it is -1."""
    whole = tf.cast(tf.gather(tf.shape(mask), [1, 0]), tf.float32)
    # Shares have seven digits.
    first, last = tf.floor(box[:2] * whole + 1e-3), tf.math.ceil(box[2:] * whole - 1e-3)
    across, down = (
        (places >= first[axis]) & (places < last[axis]) for axis in (0, 1) for places in [tf.range(whole[axis])]
    )
    return down[:, None] & across[None, :] & ((tf.cast(mask, tf.int32) == value) | (value < 0))


def _measure_visible(
    mask: tf.Tensor, visible: tf.Tensor, boxes: tf.Tensor, values: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """How many of their own pixels, where they are `there`, boxes have, int32 (n,), and the boxes of these, (n, 4)."""
    height, width = (tf.cast(length, tf.float32) for length in tf.unstack(tf.shape(mask)))

    def one(each: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        own = _make_object_mask(mask, *each) & visible
        left, right = _find_true_range(tf.reduce_any(own, 0))
        top, bottom = _find_true_range(tf.reduce_any(own, 1))
        box = tf.cast(tf.stack([left, top, right, bottom]), tf.float32) / tf.stack([width, height, width, height])
        return tf.math.count_nonzero(own, dtype=tf.int32), box

    spec = (tf.TensorSpec((), tf.int32), tf.TensorSpec((4,), tf.float32))
    return tf.map_fn(one, (boxes, values), fn_output_signature=spec)


def _find_true_range(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first true one and the one behind the last, int64; 0 and all where there is none."""
    return tf.argmax(mask), tf.size(mask, tf.int64) - tf.argmax(mask[::-1])
