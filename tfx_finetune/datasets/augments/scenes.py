"""Scenes of several training pictures, with all that is in them: mosaics, and pictures laid over one another."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.mixing import sample_beta
from tfx_finetune.ops.geometry import BOX_FIELDS, MIN_VISIBLE, has_boxes, has_mask, tile_hw, zoom
from tfx_finetune.ops.pixels import round_to_uint8
from tfx_finetune.types.components import AUGMENTS
from tfx_finetune.types.localization import MultiSampleAugment


@AUGMENTS.register
def mosaic(
    probability: float = 0.5, center: tuple[float, float] = (0.25, 0.75), min_visible: float = MIN_VISIBLE
) -> MultiSampleAugment:
    """Puts parts of four pictures around a point (Bochkovskiy et al., YOLOv4, arXiv 2004.10934, section 3.4).

    Each fills its quarter, between as small as that allows and as large as it would be in the whole.

    Args:
        probability: Share of the samples, 0 to 1.
        centre: Range of the point, down and across, as a share of the picture, within 0 to 1.
        min_visible: Objects of which a smaller share is seen become crowds, 0 to 1.
    """
    if not (0 <= probability <= 1 and 0 < center[0] <= center[1] < 1 and 0 <= min_visible <= 1):
        received = f"probability={probability}, centre={center}, min_visible={min_visible}"
        raise UserError("mosaic is out of range", got=received, expected="0 < least <= most < 1, others 0 to 1")

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        whole = tf.maximum(tf.shape(sample["image"])[:2], 2)
        drawn = tf.random.stateless_uniform((5, 3), seed)
        point = center[0] + drawn[4, :2] * (center[1] - center[0])
        cut = tf.clip_by_value(tf.cast(tf.round(point * tf.cast(whole, tf.float32)), tf.int32), 1, whole - 1)
        starts, lengths = (tf.zeros_like(cut), cut), (cut, whole - cut)
        quarters = []
        for place, one in enumerate([sample, *partners]):
            down, across = divmod(place, 2)
            start, size = (tf.stack([each[down][0], each[across][1]]) for each in (starts, lengths))
            least = _compute_resize_factor(one, size, tf.reduce_max)
            most = tf.maximum(_compute_resize_factor(one, whole, tf.reduce_min), least)
            factor = least * (most / least) ** drawn[place, 2]
            part = zoom(one, size, factor, drawn[place, :2], min_visible)
            quarters.append(_offset_boxes(part, start, size, whole))
        found = {}
        for name in ("image", "mask") if has_mask(sample) else ("image",):
            a, b, c, d = (quarter[name] for quarter in quarters)
            found[name] = tf.concat([tf.concat([a, b], 1), tf.concat([c, d], 1)], 0)
        return sample | found | (_concatenate_boxes(quarters) if has_boxes(sample) else {})

    return MultiSampleAugment(3, probability, apply)


@AUGMENTS.register
def mixup_scenes(probability: float = 0.5, alpha: float = 8.0) -> MultiSampleAugment:
    """Lays a picture over another one and keeps the objects of both (Zhang et al., Bag of Freebies, arXiv 1902.04103).

    The other one is made to fit, its proportions kept. An object weighs as much in the fainter picture as in the
    stronger one, so both should be seen: the shares are near one half. A pixel has one class: that of the stronger one.

    Args:
        probability: Share of the samples, 0 to 1.
        alpha: Of the symmetric Beta distribution that the share is drawn from, above 0; the larger, the nearer to half.
    """
    if not (0 <= probability <= 1 and alpha > 0):
        received = f"probability={probability}, alpha={alpha}"
        raise UserError("mixup_scenes is out of range", got=received, expected="0 to 1, and above 0")

    def apply(sample: dict[str, Any], partners: Sequence[dict[str, Any]], seed: tf.Tensor) -> dict[str, Any]:
        size, (partner,) = tf.shape(sample["image"])[:2], partners
        at = tf.random.stateless_uniform((2,), tf.random.experimental.stateless_fold_in(seed, 1))
        other = zoom(partner, size, _compute_resize_factor(partner, size, tf.reduce_min), at)
        share = sample_beta(alpha, seed)
        mine, theirs = (tf.cast(one["image"], tf.float32) for one in (sample, other))
        found = {"image": round_to_uint8(share * mine + (1 - share) * theirs)}
        if has_mask(sample):
            found["mask"] = tf.where(share >= 0.5, sample["mask"], other["mask"])
        return sample | found | (_concatenate_boxes([sample, other]) if has_boxes(sample) else {})

    return MultiSampleAugment(1, probability, apply)


def _compute_resize_factor(sample: dict[str, Any], size: tf.Tensor, reduce: Any) -> tf.Tensor:
    """What a picture is to be enlarged by so that it fills a size (the most of both sides) or fits into it."""
    return tf.cast(reduce(size / tf.shape(sample["image"])[:2]), tf.float32)


def _offset_boxes(sample: dict[str, Any], start: tf.Tensor, size: tf.Tensor, canvas_size: tf.Tensor) -> dict[str, Any]:
    """A part with boxes as shares of the whole, in which it begins at `start`."""
    if not has_boxes(sample):
        return sample
    start, size, canvas_size = (tile_hw(each) for each in (start, size, canvas_size))
    return sample | {"boxes": (sample["boxes"] * size + start) / canvas_size}


def _concatenate_boxes(samples: Sequence[dict[str, Any]]) -> dict[str, tf.Tensor]:
    return {name: tf.concat([one[name] for one in samples], 0) for name in BOX_FIELDS}
