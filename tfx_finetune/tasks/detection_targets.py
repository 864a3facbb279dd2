"""Objects of a picture as the target of a dense detector, and drawn."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfx_finetune.ops import detections, drawing, objects
from tfx_finetune.ops.annotations import MIN_SIDE, AnnotationIssues, repair_box
from tfx_finetune.tasks.assigner import CROWD, OBJECT
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
    """Reads, encodes, examines and draws the objects of pictures.

    Args:
        names: Of the classes.
        levels: What the head sees of a pyramid.
        most: M, objects of a picture that a target has room for.
        found: See `Places.found`.
        limits: See `Places.limits`.
        threshold: Score from which what was found is drawn.
    """
    return LocalizationTarget(
        levels,
        _make_read(names),
        _make_encode(max_objects),
        lambda raw: examine_objects(raw, max_objects),
        postprocess_fn,
        _make_draw(names, display_threshold),
        helper_file=detections.__file__,
        nms_inputs=nms_inputs,
    )


def _make_read(names: tuple[str, ...]) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    known = tf.constant(names, tf.string)

    def read(raw: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        """The objects of a column, which `size` does not change: they are shares already."""
        lines = tf.strings.split(raw, "\n")
        lines = tf.boolean_mask(lines, tf.strings.length(lines) > 0)
        fields = tf.ensure_shape(
            tf.strings.split(lines, "\t").to_tensor(shape=(None, _NUM_FIELDS)), (None, _NUM_FIELDS)
        )
        same = fields[:, :1] == known
        edges, crowd = tf.split(tf.strings.to_number(fields[:, 1:]), (4, 1), axis=-1)
        # As `examined` tells it.
        one, other = tf.split(tf.clip_by_value(edges, 0, 1), 2, axis=-1)
        low, high = tf.minimum(one, other), tf.maximum(one, other)
        there = tf.reduce_all(tf.math.is_finite(edges), -1) & tf.reduce_all(high - low >= MIN_SIDE, -1)
        mine = there & tf.reduce_any(same, -1)
        return {
            "boxes": tf.boolean_mask(tf.concat([low, high], -1), mine),
            "classes": tf.boolean_mask(tf.argmax(same, -1, tf.int32), mine),
            "crowd": tf.boolean_mask(crowd[:, 0] > 0, mine),
        }

    return read


def _make_encode(max_objects: int) -> Callable[[dict[str, tf.Tensor], tf.Tensor, Letterbox], tf.Tensor]:
    def encode(read: dict[str, tf.Tensor], size: tf.Tensor, lay: Letterbox) -> tf.Tensor:
        """Boxes in pixels of the prepared square, class and kind, (most, 6); of more, the largest, crowds last."""
        size = tf.cast(size, tf.float32)
        scale, offset = tf.cast(lay.scale, tf.float32), tf.cast(lay.offset, tf.float32)
        across = tf.reverse(size * scale, [0]), tf.reverse(offset, [0])  # x before y
        found = read["boxes"] * tf.tile(across[0], [2]) + tf.tile(across[1], [2])
        low, high = tf.split(tf.clip_by_value(found, 0, lay.side), 2, axis=-1)
        seen = tf.reduce_all(high > low, -1)
        # What is smaller than a pixel is there all the same, and counts as missed.
        low = tf.minimum(low, lay.side - 1)
        high = tf.maximum(high, low + 1)
        sides = high - low
        kind = tf.where(read["crowd"], float(CROWD), float(OBJECT))
        rows = tf.concat([low, high, tf.cast(read["classes"], tf.float32)[:, None], kind[:, None]], -1)
        rows, area = tf.boolean_mask(rows, seen), tf.boolean_mask(tf.reduce_prod(sides, -1), seen)
        order = tf.argsort(tf.where(rows[:, 5] == CROWD, -1.0, area), direction="DESCENDING", stable=True)
        rows = tf.gather(rows, order[:max_objects])
        return tf.ensure_shape(tf.pad(rows, [[0, max_objects - tf.shape(rows)[0]], [0, 0]]), (max_objects, _NUM_FIELDS))

    return encode


def examine_objects(raw: bytes, max_objects: int) -> tuple[str, str, tuple[str, ...]]:
    """The classes among the objects of a column, crowds left out; see `Places.examine`."""
    try:
        found = objects.parse_objects(raw.decode())
    except ValueError as error:
        return "", str(error), ()
    care = AnnotationIssues()
    there = [each for each in found if repair_box((each.left, each.top, each.right, each.bottom), care, "")]
    classes = LABEL_SEPARATOR.join(dict.fromkeys(each.label for each in there if not each.crowd))
    wrong = f"has {len(there)} objects, more than max_objects={max_objects}" if len(there) > max_objects else ""
    return classes, wrong, care.list_issues()


def _make_draw(
    names: tuple[str, ...], display_threshold: float
) -> Callable[[np.ndarray, np.ndarray, bool], np.ndarray]:
    colours = [tuple(colour) for colour in drawing.make_palette(len(names)).tolist()]

    def draw(pixels: np.ndarray, rows: np.ndarray, truth: bool) -> np.ndarray:
        """Draws a target's boxes, or those that are answered with their scores, the surest above the others."""
        drawn = []
        for *box, fifth, sixth in rows.tolist()[::-1]:
            if truth and sixth > 0:
                drawn.append(
                    drawing.LabeledBox(names[int(fifth)], tuple(box), None, colours[int(fifth)], sixth == CROWD)
                )
            elif not truth and sixth >= 0 and fifth >= display_threshold:
                drawn.append(drawing.LabeledBox(names[int(sixth)], tuple(box), fifth, colours[int(sixth)], False))
        return drawing.draw_boxes(pixels, drawn)

    return draw
