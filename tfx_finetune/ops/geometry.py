"""Layer 1: how a picture and what lies in it are moved together, in TensorFlow operations.

What is moved of a sample is `image` uint8 (height, width, channels) and, where it has them, `mask`, `boxes`, `classes`
and `crowd` as `Places.read` gives them. Boxes are cut at the picture's edge; where too little of one remains, it
becomes a crowd, and where nothing does, it goes.
"""

from typing import Any

import tensorflow as tf

from tfx_finetune.ops import masks
from tfx_finetune.ops.pixels import round_to_uint8
from tfx_finetune.ops.tf_data import make_noinline_function
from tfx_finetune.types.localization import IGNORE_INDEX

MIN_VISIBLE = 0.25
"""Share of a box that has to remain for it not to become a crowd, where an augment has no option of this name."""
BOX_FIELDS = ("boxes", "classes", "crowd")
"""What a sample has of its boxes."""
_GRAY = 127
# Fewest pixels of a box along either side.
_MIN_BOX_SIDE = 0.5


def select_movable_fields(sample: dict[str, Any]) -> dict[str, tf.Tensor]:
    """What moves of a sample: a mask that is not yet decoded, as a column of the source is, does not."""
    found = {"image": sample["image"]}
    if has_boxes(sample):
        found |= {name: sample[name] for name in BOX_FIELDS}
    if has_mask(sample):
        found["mask"] = sample["mask"]
    return found


def has_boxes(sample: dict[str, Any]) -> bool:
    """Whether boxes move with the picture."""
    return "boxes" in sample


def has_mask(sample: dict[str, Any]) -> bool:
    """Whether a decoded mask moves with the picture."""
    return "mask" in sample and sample["mask"].dtype == tf.uint8


def flip_horizontal(sample: dict[str, Any]) -> dict[str, Any]:
    """Left to right."""
    # Several times as fast as a slice with a step of -1.
    pixels = [name for name in ("image", "mask") if name in select_movable_fields(sample)]
    found: dict[str, tf.Tensor] = {name: tf.reverse(sample[name], [1]) for name in pixels}
    if has_boxes(sample):
        left, top, right, bottom = tf.unstack(sample["boxes"], axis=-1)
        found["boxes"] = tf.stack([1 - right, top, 1 - left, bottom], -1)
    return sample | found


def crop_window(
    sample: dict[str, Any], corner: tf.Tensor, size: tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """Keeps a window, which may reach beyond the picture: there it is grey, and nothing is told of it in the mask.

    Args:
        sample: What is moved.
        corner: Row and column of the window's first pixel, int32 (2,).
        size: Its height and width in pixels, int32 (2,); it has a pixel of the picture.
        min_visible: Objects of which a smaller share is inside become crowds.
    """
    shape = tf.shape(sample["image"])[:2]
    first, last = tf.maximum(corner, 0), tf.minimum(corner + size, shape)
    beyond = tf.pad(tf.stack([first - corner, corner + size - last], -1), [[0, 1], [0, 0]])

    def window(pixels: tf.Tensor, fill: int) -> tf.Tensor:
        inside = pixels[first[0] : last[0], first[1] : last[1]]
        padded = tf.pad(inside, beyond, constant_values=tf.constant(fill, tf.uint8))
        return tf.ensure_shape(padded, (None, None, pixels.shape[-1]))

    found = {"image": window(sample["image"], _GRAY)}
    if has_mask(sample):
        found["mask"] = window(sample["mask"], IGNORE_INDEX)
    if has_boxes(sample):
        start, lengths, whole = (tile_hw(value) for value in (corner, size, shape))
        found |= _clip_boxes(sample, sample["boxes"] * whole - start, lengths, min_visible)
    return sample | found


def resize(sample: dict[str, Any], size: tf.Tensor) -> dict[str, Any]:
    """Stretches a sample to a height and width in pixels, int32 (2,); boxes are shares and stay."""
    pixels = sample["image"]
    found = round_to_uint8(tf.image.resize(pixels, size, antialias=True))
    mask = {"mask": masks.resize_mask(sample["mask"], size)} if has_mask(sample) else {}
    return sample | {"image": tf.ensure_shape(found, (None, None, pixels.shape[-1]))} | mask


def zoom(
    sample: dict[str, Any], size: tf.Tensor, factor: tf.Tensor, position: tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """A sample enlarged by a factor, as it is seen in a picture of another size: a part of it, or with grey around.

    Args:
        sample: What is moved.
        size: Height and width of what is seen, int32 (2,).
        factor: Above 0; its proportions stay, but for the rounding of a pixel.
        at: Where it is looked at, down and across, of the room that there is, 0 to 1, (2,).
        min_visible: See `windowed`.
    """
    return sample | _zoom(select_movable_fields(sample), size, factor, position, min_visible)


@make_noinline_function
def _zoom(
    sample: dict[str, Any], size: tf.Tensor, factor: tf.Tensor, position: tf.Tensor, min_visible: float
) -> dict[str, Any]:
    shape = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
    window = tf.maximum(tf.round(tf.cast(size, tf.float32) / factor), 1)
    corner = tf.round(position * (shape - window))
    return resize(crop_window(sample, tf.cast(corner, tf.int32), tf.cast(window, tf.int32), min_visible), size)


def warp(pixels: tf.Tensor, matrix: list | tf.Tensor) -> tf.Tensor:
    """Takes each pixel from `(a x + b y + c, d x + e y + f)`, bilinearly; beyond the edge its pixels go on.

    Args:
        pixels: uint8 (height, width, channels).
        matrix: a, b, c, d, e, f, with coordinates from the centre in pixels.
    """
    return _transform(pixels, matrix, "BILINEAR", "NEAREST", 0.0)


def warp_annotations(
    sample: dict[str, Any], matrix: list | tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """Moves the mask and the boxes of a sample to where `warp` brings what its picture shows.

    Nothing is told of what is beyond the edge. A box is that of the moved corners, so that a turned one is larger than
    its object needs.
    """
    found = {}
    if has_mask(sample):
        found["mask"] = _transform(sample["mask"], matrix, "NEAREST", "CONSTANT", float(IGNORE_INDEX))
    if has_boxes(sample):
        a, b, c, d, e, f = _cast_matrix(matrix)
        whole = tile_hw(tf.shape(sample["image"])[:2])
        left, top, right, bottom = tf.unstack((sample["boxes"] - 0.5) * whole, axis=-1)
        x, y = tf.stack([left, right, right, left], -1) - c, tf.stack([top, top, bottom, bottom], -1) - f
        over = a * e - b * d
        across, down = (e * x - b * y) / over, (a * y - d * x) / over
        edges = [tf.reduce_min(across, -1), tf.reduce_min(down, -1), tf.reduce_max(across, -1), tf.reduce_max(down, -1)]
        found |= _clip_boxes(sample, tf.stack(edges, -1) + whole / 2, whole, min_visible)
    return sample | found


def _clip_boxes(
    sample: dict[str, Any], boxes: tf.Tensor, lengths: tf.Tensor, min_visible: float
) -> dict[str, tf.Tensor]:
    """Boxes (n, 4) in pixels of a picture of `lengths` (4,), cut at its edge, and their classes.

    What remains of one that is hardly visible any more is neither an object nor background: it becomes a crowd.
    """
    cut = tf.clip_by_value(boxes, 0.0, lengths)
    remains = tf.math.divide_no_nan(_area(cut), _area(boxes))
    # A box that is only moved remains whole but for rounding; by rounding, too, one beside a window reaches into it.
    crowd = sample["crowd"] | (remains < min_visible - 1e-4)
    kept = tf.reduce_min(cut[:, 2:] - cut[:, :2], -1) >= _MIN_BOX_SIDE
    values = {"boxes": cut / lengths, "classes": sample["classes"], "crowd": crowd}
    return {name: tf.boolean_mask(value, kept) for name, value in values.items()}


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def tile_hw(lengths: tf.Tensor) -> tf.Tensor:
    """(vertical, horizontal) -> float32 (4,), as a box has them."""
    return tf.cast(tf.gather(lengths, [1, 0, 1, 0]), tf.float32)


def _cast_matrix(matrix: list | tf.Tensor) -> list[tf.Tensor]:
    return [tf.cast(matrix[place], tf.float32) for place in range(6)]


def _transform(
    pixels: tf.Tensor, matrix: list | tf.Tensor, interpolation: str, fill_mode: str, fill: float
) -> tf.Tensor:
    a, b, c, d, e, f = _cast_matrix(matrix)
    height, width = tf.unstack((tf.cast(tf.shape(pixels)[:2], tf.float32) - 1) / 2)
    row = tf.stack([a, b, c + width - a * width - b * height, d, e, f + height - d * width - e * height, 0.0, 0.0])
    found = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=row[None],
        output_shape=tf.shape(pixels)[:2],
        fill_value=fill,
        interpolation=interpolation,
        fill_mode=fill_mode,
    )
    return tf.ensure_shape(found[0], pixels.shape)
