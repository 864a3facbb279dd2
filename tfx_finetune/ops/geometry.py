"""Geometric transforms of an image together with its mask and boxes, in TensorFlow operations.

A sample is a dict of tensors: `image` uint8 (height, width, channels) and, if the task needs them, `mask` uint8
(height, width, 1), `boxes` float32 (n, 4) as fractions of width and height, `classes` int32 (n,) and `crowd` bool (n,).
Boxes are clipped at the image edge. If too small a fraction of a box remains, it becomes a crowd region; if nothing
remains, it is removed.
"""

from typing import Any

import tensorflow as tf

from tfx_finetune.ops import masks
from tfx_finetune.ops.image import round_to_uint8
from tfx_finetune.ops.tf_data import make_noinline_function
from tfx_finetune.types.localization import IGNORE_INDEX

MIN_VISIBLE = 0.25
"""Default of `min_visible`: minimum fraction of a box's area that must remain, else the box becomes a crowd region."""
BOX_FIELDS = ("boxes", "classes", "crowd")
"""Fields of a sample that hold its boxes."""
_GRAY = 127
_MIN_BOX_SIDE_PIXELS = 0.5


def select_movable_fields(sample: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Select the fields that a geometric transform changes: the image, the boxes, and a mask if it is decoded."""
    fields = {"image": sample["image"]}
    if has_boxes(sample):
        fields |= {name: sample[name] for name in BOX_FIELDS}
    if has_mask(sample):
        fields["mask"] = sample["mask"]
    return fields


def has_boxes(sample: dict[str, Any]) -> bool:
    """Return True if the sample has boxes."""
    return "boxes" in sample


def has_mask(sample: dict[str, Any]) -> bool:
    """Return True if the sample has a decoded mask, not only the path or content of a mask file."""
    return "mask" in sample and sample["mask"].dtype == tf.uint8


def flip_horizontal(sample: dict[str, Any]) -> dict[str, Any]:
    """Flip a sample left to right.

    Examples:
        >>> sample = {"image": tf.constant([[[1], [2]]], tf.uint8), "boxes": tf.constant([[0.0, 0.0, 0.25, 1.0]])}
        >>> sample |= {"classes": tf.constant([3]), "crowd": tf.constant([False])}
        >>> flipped = flip_horizontal(sample)
        >>> flipped["image"].numpy().tolist(), flipped["boxes"].numpy().tolist()
        ([[[2], [1]]], [[0.75, 0.0, 1.0, 1.0]])
    """
    pixel_fields = [name for name in ("image", "mask") if name in select_movable_fields(sample)]
    # tf.reverse is several times faster than a slice with a step of -1.
    flipped: dict[str, tf.Tensor] = {name: tf.reverse(sample[name], [1]) for name in pixel_fields}
    if has_boxes(sample):
        left, top, right, bottom = tf.unstack(sample["boxes"], axis=-1)
        flipped["boxes"] = tf.stack([1 - right, top, 1 - left, bottom], -1)
    return sample | flipped


def crop_window(
    sample: dict[str, Any], corner: tf.Tensor, size: tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """Crop a window, which may extend beyond the image.

    Beyond the image, the pixels of the window are gray and its mask is `IGNORE_INDEX`.

    Args:
        sample: Sample to crop.
        corner: int32 (2,). Row and column of the first pixel of the window.
        size: int32 (2,). Height and width of the window in pixels. The window contains a pixel of the image.
        min_visible: float, 0 to 1. Boxes of which a smaller fraction remains become crowd regions. Default 0.25.
    """
    image_size = tf.shape(sample["image"])[:2]
    first, last = tf.maximum(corner, 0), tf.minimum(corner + size, image_size)
    padding = tf.pad(tf.stack([first - corner, corner + size - last], -1), [[0, 1], [0, 0]])

    def crop(pixels: tf.Tensor, fill: int) -> tf.Tensor:
        inside = pixels[first[0] : last[0], first[1] : last[1]]
        padded = tf.pad(inside, padding, constant_values=tf.constant(fill, tf.uint8))
        return tf.ensure_shape(padded, (None, None, pixels.shape[-1]))

    cropped = {"image": crop(sample["image"], _GRAY)}
    if has_mask(sample):
        cropped["mask"] = crop(sample["mask"], IGNORE_INDEX)
    if has_boxes(sample):
        start, window_size, full_size = (tile_hw(value) for value in (corner, size, image_size))
        cropped |= _clip_boxes(sample, sample["boxes"] * full_size - start, window_size, min_visible)
    return sample | cropped


def resize(sample: dict[str, Any], size: tf.Tensor) -> dict[str, Any]:
    """Resize image (antialiased bilinear) and mask (nearest) without keeping the aspect ratio.

    Args:
        sample: Sample to resize. Its boxes are fractions and do not change.
        size: int32 (2,). Height and width in pixels.
    """
    pixels = sample["image"]
    resized = round_to_uint8(tf.image.resize(pixels, size, antialias=True))
    mask = {"mask": masks.resize_mask(sample["mask"], size)} if has_mask(sample) else {}
    return sample | {"image": tf.ensure_shape(resized, (None, None, pixels.shape[-1]))} | mask


def zoom(
    sample: dict[str, Any], size: tf.Tensor, factor: tf.Tensor, position: tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """Scale a sample by a factor and place it on a canvas, cropped or padded with gray.

    Args:
        sample: Sample to scale. The aspect ratio is kept up to rounding to whole pixels.
        size: int32 (2,). Height and width of the canvas in pixels.
        factor: float32 scalar > 0. Scale in canvas pixels per image pixel.
        position: float32 (2,), 0 to 1. Vertical and horizontal position of the canvas within the free room.
        min_visible: float, 0 to 1. Boxes of which a smaller fraction remains become crowd regions. Default 0.25.
    """
    return sample | _zoom(select_movable_fields(sample), size, factor, position, min_visible)


@make_noinline_function
def _zoom(
    sample: dict[str, Any], size: tf.Tensor, factor: tf.Tensor, position: tf.Tensor, min_visible: float
) -> dict[str, Any]:
    image_size = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
    window = tf.maximum(tf.round(tf.cast(size, tf.float32) / factor), 1)
    corner = tf.round(position * (image_size - window))
    return resize(crop_window(sample, tf.cast(corner, tf.int32), tf.cast(window, tf.int32), min_visible), size)


def warp(pixels: tf.Tensor, matrix: list | tf.Tensor) -> tf.Tensor:
    """Apply an affine transform to an image, with bilinear interpolation and repeated edge pixels.

    Args:
        pixels: uint8 (height, width, channels).
        matrix: 6 floats a, b, c, d, e, f. The pixel at (x, y) is read from (a x + b y + c, d x + e y + f), in pixels
            relative to the image center.
    """
    return _transform(pixels, matrix, "BILINEAR", "NEAREST", 0.0)


def warp_annotations(
    sample: dict[str, Any], matrix: list | tf.Tensor, min_visible: float = MIN_VISIBLE
) -> dict[str, Any]:
    """Apply the affine transform of `warp` to mask and boxes, but not to the image.

    The mask is `IGNORE_INDEX` beyond the image edge. The new box is the bounding box of the four transformed corners,
    so that a rotated box is larger than its object.

    Args:
        sample: Sample to transform.
        matrix: 6 floats as in `warp`.
        min_visible: float, 0 to 1. Boxes of which a smaller fraction remains become crowd regions. Default 0.25.
    """
    warped = {}
    if has_mask(sample):
        warped["mask"] = _transform(sample["mask"], matrix, "NEAREST", "CONSTANT", float(IGNORE_INDEX))
    if has_boxes(sample):
        a, b, c, d, e, f = _cast_matrix(matrix)
        full_size = tile_hw(tf.shape(sample["image"])[:2])
        left, top, right, bottom = tf.unstack((sample["boxes"] - 0.5) * full_size, axis=-1)
        x, y = tf.stack([left, right, right, left], -1) - c, tf.stack([top, top, bottom, bottom], -1) - f
        determinant = a * e - b * d
        new_x, new_y = (e * x - b * y) / determinant, (a * y - d * x) / determinant
        low, high = ([reduce(new_x, -1), reduce(new_y, -1)] for reduce in (tf.reduce_min, tf.reduce_max))
        warped |= _clip_boxes(sample, tf.stack([*low, *high], -1) + full_size / 2, full_size, min_visible)
    return sample | warped


def _clip_boxes(sample: dict[str, Any], boxes: tf.Tensor, size: tf.Tensor, min_visible: float) -> dict[str, tf.Tensor]:
    """Clip boxes at the image edge and update the crowd flags.

    A box of which too small a fraction remains is neither an object nor background: it becomes a crowd region.

    Args:
        sample: Sample with the classes and crowd flags of the boxes.
        boxes: float32 (n, 4), in pixels.
        size: float32 (4,). Image size as of `tile_hw`.
        min_visible: float, 0 to 1.
    """
    clipped = tf.clip_by_value(boxes, 0.0, size)
    visible = tf.math.divide_no_nan(_area(clipped), _area(boxes))
    # The margin is for rounding: a box that is only moved stays complete, and a box next to a window may touch it.
    crowd = sample["crowd"] | (visible < min_visible - 1e-4)
    has_area = tf.reduce_min(clipped[:, 2:] - clipped[:, :2], -1) >= _MIN_BOX_SIDE_PIXELS
    values = {"boxes": clipped / size, "classes": sample["classes"], "crowd": crowd}
    return {name: tf.boolean_mask(value, has_area) for name, value in values.items()}


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def tile_hw(lengths: tf.Tensor) -> tf.Tensor:
    """Convert (height, width) to (width, height, width, height), the order of box coordinates.

    Args:
        lengths: (2,), of any numeric type.

    Returns:
        float32 (4,).

    Examples:
        >>> tile_hw(tf.constant([2, 3])).numpy().tolist()
        [3.0, 2.0, 3.0, 2.0]
    """
    return tf.cast(tf.gather(lengths, [1, 0, 1, 0]), tf.float32)


def _cast_matrix(matrix: list | tf.Tensor) -> list[tf.Tensor]:
    return [tf.cast(matrix[index], tf.float32) for index in range(6)]


def _transform(
    pixels: tf.Tensor, matrix: list | tf.Tensor, interpolation: str, fill_mode: str, fill: float
) -> tf.Tensor:
    a, b, c, d, e, f = _cast_matrix(matrix)
    center_y, center_x = tf.unstack((tf.cast(tf.shape(pixels)[:2], tf.float32) - 1) / 2)
    row_x = [a, b, c + center_x - a * center_x - b * center_y]
    row_y = [d, e, f + center_y - d * center_x - e * center_y]
    transformed = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.stack([*row_x, *row_y, 0.0, 0.0])[None],
        output_shape=tf.shape(pixels)[:2],
        fill_value=fill,
        interpolation=interpolation,
        fill_mode=fill_mode,
    )
    return tf.ensure_shape(transformed[0], pixels.shape)
