"""The outputs of a dense detector as objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.ops import boxes
from tfx_finetune.tasks.dense_head import CLASSES, DISTANCES, LOGITS
from tfx_finetune.types.aliases import Batch

LIMITS = {"score_threshold": "float32", "iou_threshold": "float32", "max_detections": "int32"}
"""What a server may be told in place of `least` and `overlap`, and to give less than `most`."""
_CHUNK = 32  # pictures whose boxes are compared with one another at once


@dataclass(frozen=True)
class Decoding:
    """Turns outputs into scores and boxes of all places, and these into the objects that are found.

    Attributes:
        names: Of the classes.
        levels: Of the pyramid, from fine to coarse.
        least: Score below which nothing is found.
        overlap: Intersection over union above which the worse of two objects of one class goes.
        most: K, objects found in a picture at most.
    """

    names: tuple[str, ...]
    levels: tuple[str, ...]
    least: float
    overlap: float
    most: int

    def decode(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """`scores` (batch, A, classes) and `boxes` as shares of the picture, (batch, A, 4), of the head's outputs."""
        if CLASSES in outputs:
            classes, far = outputs[CLASSES], outputs[DISTANCES]
        else:
            classes, far = outputs[LOGITS][..., :-4], outputs[LOGITS][..., -4:]
        grid = boxes.grid(far.shape[1], self.levels)
        found = boxes.around(grid.centres / grid.side, far * (grid.strides / grid.side))
        return {"scores": keras.ops.sigmoid(classes), "boxes": found}

    def read(self, outputs: Batch) -> np.ndarray:
        """The objects of decoded outputs: box in pixels, score and class, (batch, K, 6)."""
        scores, shares = outputs["scores"], outputs["boxes"]
        parts = [slice(at, at + _CHUNK) for at in range(0, len(scores), _CHUNK)]
        found = [self._rows(scores[part], shares[part]) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, self.most, 6), np.float32)

    def answers(self, outputs: dict[str, tf.Tensor], limits: Mapping[str, Any] | None = None) -> dict[str, tf.Tensor]:
        """The same with the names of classes, as a server gives them; see `LIMITS`."""
        told = [limits[name] for name in LIMITS] if limits else [self.least, self.overlap]
        box, score, label = self._detected(outputs["scores"], outputs["boxes"], *told)
        known = tf.constant([*self.names, ""])
        return {"boxes": box, "scores": score, "labels": tf.gather(known, label % (len(self.names) + 1))}

    def _rows(self, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        box, score, label = self._detected(scores, shares, self.least, self.overlap)
        pixels = np.asarray(box) * boxes.grid(scores.shape[1], self.levels).side
        return np.concatenate([pixels, np.asarray(score)[..., None], np.asarray(label, np.float32)[..., None]], -1)

    def _detected(self, scores: Any, shares: Any, least: Any, overlap: Any, first: Any = None) -> Any:
        return boxes.detections(
            keras.ops.convert_to_tensor(scores, "float32"),
            keras.ops.clip(shares, 0.0, 1.0),
            least=least,
            overlap=overlap,
            most=self.most,
            candidates=5 * self.most,
            first=first,
        )
