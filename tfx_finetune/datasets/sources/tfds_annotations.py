"""Boxes and masks of TensorFlow Datasets, converted to columns of samples."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import normalize_class_name
from tfx_finetune.types.localization import IGNORE_INDEX

_CROWD_KEYS = ("is_crowd", "is_difficult", "is_group_of")
_BOX_FORMAT = "REL_YXYX"


class BoxFeature:
    """Feature of boxes with classes, converted to the text of an `objects` column (`ops/objects.py`).

    The boxes are not checked here: the survey reports invalid ones.

    Args:
        name: Name of the feature.
        feature: TFDS feature, a sequence of `bbox` and `label`.

    Raises:
        UserError: If the boxes are not fractions of the image.
    """

    def __init__(self, name: str, feature: Any) -> None:
        fields = feature.feature
        box_format = getattr(fields["bbox"].bbox_format, "name", _BOX_FORMAT)
        if box_format != _BOX_FORMAT:
            raise UserError("Boxes have an unsupported format", got=f"{name}: {box_format}", expected=_BOX_FORMAT)
        self.names = tuple(map(normalize_class_name, fields["label"].names))
        self._crowd_key = next((key for key in _CROWD_KEYS if key in fields), "")

    @staticmethod
    def is_box_feature(features: Any, name: str) -> bool:
        """Return True if there is a feature of this name with boxes and classes."""
        fields: Any = getattr(features[name], "feature", None) if name in features else None
        if not hasattr(fields, "items") or not {"bbox", "label"} <= set(fields.keys()):
            return False
        return hasattr(fields["label"], "names")

    def format_column(self, value: dict[str, tf.Tensor]) -> tf.Tensor:
        """Convert boxes (n, 4) of top, left, bottom, right and classes (n,) to the text of an `objects` column."""
        top, left, bottom, right = tf.unstack(value["bbox"], axis=1)
        classes = tf.gather(tf.constant(self.names), tf.maximum(value["label"], 0))
        crowd = value[self._crowd_key] if self._crowd_key else tf.zeros_like(value["label"])
        edges = [tf.strings.as_string(edge, precision=6) for edge in (left, top, right, bottom)]
        flags = tf.strings.as_string(tf.cast(tf.cast(crowd, tf.int32) > 0, tf.int32))
        lines = tf.strings.join([classes, *edges, flags], "\t")
        # TFDS gives the class -1 to objects whose class is not published.
        return tf.strings.reduce_join(tf.boolean_mask(lines, value["label"] >= 0), separator="\n")


def has_type(feature: Any, type_name: str) -> bool:
    """Return True if a feature has a class of `tfds.features`, without importing that package.

    Args:
        feature: TFDS feature.
        type_name: Name of the class, such as `Image`.
    """
    return any(base.__name__ == type_name for base in type(feature).__mro__)


def get_mask_class_names(name: str, feature: Any, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names of a mask feature, in the order of its values.

    Args:
        name: Name of the feature.
        feature: TFDS feature.
        classes: Class names of the option `classes`; empty for those of the feature.

    Raises:
        UserError: If the feature is not a mask, or its class names are unknown or not unique.
    """
    if not has_type(feature, "Image") or feature.shape[-1] != 1:
        raise UserError("The feature is not a mask", got=name, expected="an image of one channel")
    names = classes or tuple(getattr(feature, "names", None) or ())
    if not names or len(set(names)) < len(names) or len(names) > IGNORE_INDEX:
        hint = "add classes=('sky', 'road', ...), in the order of the values"
        raise UserError("The class names of the mask are missing or not unique", got=name, hint=hint)
    return names


def shift_mask(raw: tf.Tensor, shift: int) -> tf.Tensor:
    """Add `shift` to the values of a PNG mask; values outside of 0 to 254 become `IGNORE_INDEX`."""
    if not shift:
        return raw
    values = tf.cast(tf.io.decode_png(raw, channels=1), tf.int32)
    shifted = tf.where(values == IGNORE_INDEX, IGNORE_INDEX, values + shift)
    shifted = tf.where((shifted >= 0) & (shifted < IGNORE_INDEX), shifted, IGNORE_INDEX)
    return tf.io.encode_png(tf.cast(shifted, tf.uint8))
