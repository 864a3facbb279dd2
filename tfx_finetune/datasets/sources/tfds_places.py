"""Features of TensorFlow Datasets that say where something is, as columns: boxes with classes, and masks."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import named
from tfx_finetune.types.localization import UNTOLD

_CROWDS = ("is_crowd", "is_difficult", "is_group_of")
_FORMAT = "REL_YXYX"


class Boxes:
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
            raise UserError("boxes in a form that is not read", received=f"{name}: {form}", allowed=_FORMAT)
        self.names = tuple(map(named, inner["label"].names))
        self._crowd = next((key for key in _CROWDS if key in inner), "")

    @staticmethod
    def are(features: Any, name: str) -> bool:
        """Whether there is a feature of this name, with boxes and classes."""
        inner: Any = getattr(features[name], "feature", None) if name in features else None
        if not hasattr(inner, "items") or not {"bbox", "label"} <= set(inner.keys()):
            return False
        return hasattr(inner["label"], "names")

    def column(self, value: dict[str, tf.Tensor]) -> tf.Tensor:
        """Top, left, bottom and right, (n, 4), and classes, (n,) -> the text of a column."""
        top, left, bottom, right = tf.unstack(value["bbox"], axis=1)
        classes = tf.gather(tf.constant(self.names), tf.maximum(value["label"], 0))
        crowd = value[self._crowd] if self._crowd else tf.zeros_like(value["label"])
        edges = [tf.strings.as_string(edge, precision=6) for edge in (left, top, right, bottom)]
        flags = tf.strings.as_string(tf.cast(tf.cast(crowd, tf.int32) > 0, tf.int32))
        lines = tf.strings.join([classes, *edges, flags], "\t")
        # A class that is not published is -1.
        return tf.strings.reduce_join(tf.boolean_mask(lines, value["label"] >= 0), separator="\n")


def mask_names(name: str, feature: Any, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a mask, in the order of its values.

    Raises:
        UserError: The feature is no mask, or nobody says its classes.
    """
    if not any(base.__name__ == "Image" for base in type(feature).__mro__) or feature.shape[-1] != 1:
        raise UserError("this feature is no mask", received=name, allowed="a picture of one channel")
    found = classes or tuple(getattr(feature, "names", None) or ())
    if not found or len(set(found)) < len(found) or len(found) > UNTOLD:
        todo = "say classes=('sky', 'road', ...), in the order of the values"
        raise UserError("nobody says the classes of this mask", received=name, todo=todo)
    return found


def shifted(raw: tf.Tensor, shift: int) -> tf.Tensor:
    """A mask's PNG with `shift` added to its values, for masks that count from 1; what then is no class is untold."""
    if not shift:
        return raw
    values = tf.cast(tf.io.decode_png(raw, channels=1), tf.int32)
    moved = tf.where(values == UNTOLD, UNTOLD, values + shift)
    moved = tf.where((moved >= 0) & (moved < UNTOLD), moved, UNTOLD)
    return tf.io.encode_png(tf.cast(moved, tf.uint8))
