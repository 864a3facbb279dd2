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

NMS_INPUTS = {"score_threshold": "float32", "iou_threshold": "float32", "max_detections": "int32"}
"""What a server may be told in place of `least` and `overlap`, and to give less than `most`."""
_BATCH_SIZE = 32  # pictures whose boxes are compared with one another at once


@dataclass(frozen=True)
class DetectionPostprocess:
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
    score_threshold: float
    iou_threshold: float
    max_detections: int

    def decode(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """`scores` (batch, A, classes) and `boxes` as shares of the picture, (batch, A, 4), of the head's outputs."""
        if CLASSES in outputs:
            classes, far = outputs[CLASSES], outputs[DISTANCES]
        else:
            classes, far = outputs[LOGITS][..., :-4], outputs[LOGITS][..., -4:]
        grid = boxes.make_grid(far.shape[1], self.levels)
        found = boxes.distances_to_boxes(grid.centers / grid.side, far * (grid.strides / grid.side))
        return {"scores": keras.ops.sigmoid(classes), "boxes": found}

    def postprocess(self, outputs: Batch) -> np.ndarray:
        """The objects of decoded outputs: box in pixels, score and class, (batch, K, 6)."""
        scores, shares = outputs["scores"], outputs["boxes"]
        parts = [slice(at, at + _BATCH_SIZE) for at in range(0, len(scores), _BATCH_SIZE)]
        found = [self._to_rows(scores[part], shares[part]) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, self.max_detections, 6), np.float32)

    def postprocess_with_names(
        self, outputs: dict[str, tf.Tensor], nms_inputs: Mapping[str, Any] | None = None
    ) -> dict[str, tf.Tensor]:
        """The same with the names of classes, as a server gives them; see `LIMITS`."""
        told = [nms_inputs[name] for name in NMS_INPUTS] if nms_inputs else [self.score_threshold, self.iou_threshold]
        box, score, label = self._run_nms(outputs["scores"], outputs["boxes"], *told)
        known = tf.constant([*self.names, ""])
        return {"boxes": box, "scores": score, "labels": tf.gather(known, label % (len(self.names) + 1))}

    def _to_rows(self, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        box, score, label = self._run_nms(scores, shares, self.score_threshold, self.iou_threshold)
        pixels = np.asarray(box) * boxes.make_grid(scores.shape[1], self.levels).side
        return np.concatenate([pixels, np.asarray(score)[..., None], np.asarray(label, np.float32)[..., None]], -1)

    def _run_nms(
        self, scores: Any, shares: Any, score_threshold: Any, iou_threshold: Any, max_per_image: Any = None
    ) -> Any:
        return boxes.batched_nms(
            keras.ops.convert_to_tensor(scores, "float32"),
            keras.ops.clip(shares, 0.0, 1.0),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=self.max_detections,
            pre_nms_topk=5 * self.max_detections,
            max_per_image=max_per_image,
        )
