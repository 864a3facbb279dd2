"""Features of TensorFlow Datasets that say where something is, as columns: boxes with classes, and masks."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import normalize_class_name
from tfx_finetune.types.localization import IGNORE_INDEX

_CROWDS = ("is_crowd", "is_difficult", "is_group_of")
_FORMAT = "REL_YXYX"


class BoxFeature:
    """A sequence of boxes and classes, as the text of a column (`ops/objects.py`).

    What is wrong with them is told by the survey.

    Args:
        name: Of the feature.
        feature: Of TFDS.

    Raises:
        UserError: Its boxes are in another form than in shares of the picture.
    """

    def __init__(self, name: str, feature: Any) -> None:
        inner = feature.feature
        form = getattr(inner["bbox"].bbox_format, "name", _FORMAT)
        if form != _FORMAT:
            raise UserError("boxes in a form that is not read", got=f"{name}: {form}", expected=_FORMAT)
        self.names = tuple(map(normalize_class_name, inner["label"].names))
        self._crowd = next((key for key in _CROWDS if key in inner), "")

    @staticmethod
    def is_box_feature(features: Any, name: str) -> bool:
        """Whether there is a feature of this name, with boxes and classes."""
        inner: Any = getattr(features[name], "feature", None) if name in features else None
        if not hasattr(inner, "items") or not {"bbox", "label"} <= set(inner.keys()):
            return False
        return hasattr(inner["label"], "names")

    def format_column(self, value: dict[str, tf.Tensor]) -> tf.Tensor:
        """Top, left, bottom and right, (n, 4), and classes, (n,) -> the text of a column."""
        top, left, bottom, right = tf.unstack(value["bbox"], axis=1)
        classes = tf.gather(tf.constant(self.names), tf.maximum(value["label"], 0))
        crowd = value[self._crowd] if self._crowd else tf.zeros_like(value["label"])
        edges = [tf.strings.as_string(edge, precision=6) for edge in (left, top, right, bottom)]
        flags = tf.strings.as_string(tf.cast(tf.cast(crowd, tf.int32) > 0, tf.int32))
        lines = tf.strings.join([classes, *edges, flags], "\t")
        # A class that is not published is -1.
        return tf.strings.reduce_join(tf.boolean_mask(lines, value["label"] >= 0), separator="\n")


def get_mask_class_names(name: str, feature: Any, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a mask, in the order of its values.

    Raises:
        UserError: The feature is no mask, or nobody says its classes.
    """
    if not any(base.__name__ == "Image" for base in type(feature).__mro__) or feature.shape[-1] != 1:
        raise UserError("this feature is no mask", got=name, expected="a picture of one channel")
    found = classes or tuple(getattr(feature, "names", None) or ())
    if not found or len(set(found)) < len(found) or len(found) > IGNORE_INDEX:
        todo = "say classes=('sky', 'road', ...), in the order of the values"
        raise UserError("nobody says the classes of this mask", got=name, hint=todo)
    return found


def shift_mask(raw: tf.Tensor, shift: int) -> tf.Tensor:
    """A mask's PNG with `shift` added to its values, for masks that count from 1; what then is no class is untold."""
    if not shift:
        return raw
    values = tf.cast(tf.io.decode_png(raw, channels=1), tf.int32)
    moved = tf.where(values == IGNORE_INDEX, IGNORE_INDEX, values + shift)
    moved = tf.where((moved >= 0) & (moved < IGNORE_INDEX), moved, IGNORE_INDEX)
    return tf.io.encode_png(tf.cast(moved, tf.uint8))
