"""Target of a dense detector: the objects of an image, read, encoded, checked and drawn."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfx_finetune.ops import detections, drawing, objects
from tfx_finetune.ops.annotations import MIN_SIDE, AnnotationIssues, repair_box
from tfx_finetune.tasks.detection_loss import CROWD, OBJECT
from tfx_finetune.types.aliases import PostprocessFn
from tfx_finetune.types.components import LABEL_SEPARATOR
from tfx_finetune.types.localization import Letterbox, LocalizationTarget

_NUM_FIELDS = 6


def make_detection_target(
    names: tuple[str, ...],
    levels: tuple[str, ...],
    max_objects: int,
    postprocess_fn: PostprocessFn,
    nms_inputs: Mapping[str, str],
    display_threshold: float,
) -> LocalizationTarget:
    """Return the functions that read, encode, check and draw the objects of images.

    Args:
        names: Class names.
        levels: Pyramid levels of the head.
        max_objects: int M. Number of rows of a target.
        postprocess_fn: See `LocalizationTarget.postprocess_fn`.
        nms_inputs: See `LocalizationTarget.nms_inputs`.
        display_threshold: float, 0 to 1. Minimum score of a drawn object.
    """
    return LocalizationTarget(
        levels,
        _make_read(names),
        _make_encode(max_objects),
        lambda raw: check_objects(raw, max_objects),
        postprocess_fn,
        _make_draw(names, display_threshold),
        helper_file=detections.__file__,
        nms_inputs=nms_inputs,
    )


def _make_read(names: tuple[str, ...]) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    class_names = tf.constant(names, tf.string)

    def read(raw: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read the objects of a column; `size` is unused, as the boxes are fractions already."""
        lines = tf.strings.split(raw, "\n")
        lines = tf.boolean_mask(lines, tf.strings.length(lines) > 0)
        fields = tf.ensure_shape(
            tf.strings.split(lines, "\t").to_tensor(shape=(None, _NUM_FIELDS)), (None, _NUM_FIELDS)
        )
        class_matches = fields[:, :1] == class_names
        edges, crowd = tf.split(tf.strings.to_number(fields[:, 1:]), (4, 1), axis=-1)
        # The same repairs as in `check_objects`.
        first, second = tf.split(tf.clip_by_value(edges, 0, 1), 2, axis=-1)
        low, high = tf.minimum(first, second), tf.maximum(first, second)
        has_area = tf.reduce_all(tf.math.is_finite(edges), -1) & tf.reduce_all(high - low >= MIN_SIDE, -1)
        valid = has_area & tf.reduce_any(class_matches, -1)
        return {
            "boxes": tf.boolean_mask(tf.concat([low, high], -1), valid),
            "classes": tf.boolean_mask(tf.argmax(class_matches, -1, tf.int32), valid),
            "crowd": tf.boolean_mask(crowd[:, 0] > 0, valid),
        }

    return read


def _make_encode(max_objects: int) -> Callable[[dict[str, tf.Tensor], tf.Tensor, Letterbox], tf.Tensor]:
    def encode(annotations: dict[str, tf.Tensor], size: tf.Tensor, letterbox: Letterbox) -> tf.Tensor:
        """Encode boxes in pixels of the model input, class and kind, (M, 6).

        Rows are sorted by area, with crowds last; the smallest objects beyond M are dropped.
        """
        size = tf.cast(size, tf.float32)
        scale, offset = tf.cast(letterbox.scale, tf.float32), tf.cast(letterbox.offset, tf.float32)
        scale_xy, offset_xy = tf.reverse(size * scale, [0]), tf.reverse(offset, [0])
        boxes = annotations["boxes"] * tf.tile(scale_xy, [2]) + tf.tile(offset_xy, [2])
        low, high = tf.split(tf.clip_by_value(boxes, 0, letterbox.side), 2, axis=-1)
        visible = tf.reduce_all(high > low, -1)
        # An object smaller than a pixel is enlarged to one pixel, so that it counts as missed.
        low = tf.minimum(low, letterbox.side - 1)
        high = tf.maximum(high, low + 1)
        kind = tf.where(annotations["crowd"], float(CROWD), float(OBJECT))
        rows = tf.concat([low, high, tf.cast(annotations["classes"], tf.float32)[:, None], kind[:, None]], -1)
        rows, area = tf.boolean_mask(rows, visible), tf.boolean_mask(tf.reduce_prod(high - low, -1), visible)
        order = tf.argsort(tf.where(rows[:, 5] == CROWD, -1.0, area), direction="DESCENDING", stable=True)
        rows = tf.gather(rows, order[:max_objects])
        return tf.ensure_shape(tf.pad(rows, [[0, max_objects - tf.shape(rows)[0]], [0, 0]]), (max_objects, _NUM_FIELDS))

    return encode


def check_objects(raw: bytes, max_objects: int) -> tuple[str, str, tuple[str, ...]]:
    """Check the objects of a column; see `LocalizationTarget.check_annotations`.

    Args:
        raw: Content of the column, see `ops/objects.py`.
        max_objects: int. Maximum number of valid objects.

    Returns:
        Class names of the objects without crowds, joined by `LABEL_SEPARATOR`; an error, or ""; and the repairs.

    Examples:
        >>> raw = objects.format_objects([objects.Object("cat", 0.0, 0.0, 0.5, 0.5)]).encode()
        >>> check_objects(raw, max_objects=100)
        ('cat', '', ())
    """
    try:
        parsed = objects.parse_objects(raw.decode())
    except ValueError as parse_error:
        return "", str(parse_error), ()
    issues = AnnotationIssues()
    valid = [item for item in parsed if repair_box((item.left, item.top, item.right, item.bottom), issues, "")]
    classes = LABEL_SEPARATOR.join(dict.fromkeys(item.label for item in valid if not item.crowd))
    error = f"has {len(valid)} objects, more than max_objects={max_objects}" if len(valid) > max_objects else ""
    return classes, error, issues.list_issues()


def _make_draw(
    names: tuple[str, ...], display_threshold: float
) -> Callable[[np.ndarray, np.ndarray, bool], np.ndarray]:
    colors = [tuple(color) for color in drawing.make_palette(len(names)).tolist()]

    def draw(pixels: np.ndarray, rows: np.ndarray, is_target: bool) -> np.ndarray:
        """Draw the boxes of a target, or predictions with their scores; boxes with high scores are drawn last."""
        labeled_boxes = []
        for *box, fifth, sixth in rows.tolist()[::-1]:
            if is_target and sixth > 0:
                label = int(fifth)
                labeled_boxes.append(drawing.LabeledBox(names[label], tuple(box), None, colors[label], sixth == CROWD))
            elif not is_target and sixth >= 0 and fifth >= display_threshold:
                label = int(sixth)
                labeled_boxes.append(drawing.LabeledBox(names[label], tuple(box), fifth, colors[label], False))
        return drawing.draw_boxes(pixels, labeled_boxes)

    return draw
