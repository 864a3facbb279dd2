"""Postprocessing of a dense detector: from its outputs to objects."""

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
"""Name -> dtype of the thresholds that a server accepts in a request; `max_detections` at most that of the head."""
_BATCH_SIZE = 32  # images whose boxes are compared with one another at once


@dataclass(frozen=True)
class DetectionPostprocess:
    """Conversion of head outputs to scores and boxes of all anchor points, and of these to objects.

    Attributes:
        names: Class names.
        levels: Pyramid levels from fine to coarse.
        score_threshold: float, 0 to 1. Minimum score of an object.
        iou_threshold: float, 0 to 1. If two boxes of one class overlap by more than this intersection over union, the
            box with the lower score is removed.
        max_detections: int K >= 1. Maximum number of objects per image.
    """

    names: tuple[str, ...]
    levels: tuple[str, ...]
    score_threshold: float
    iou_threshold: float
    max_detections: int

    def decode(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return `scores` (batch, A, classes), and `boxes` (batch, A, 4) as fractions of the model input."""
        if CLASSES in outputs:
            class_logits, distances = outputs[CLASSES], outputs[DISTANCES]
        else:
            class_logits, distances = outputs[LOGITS][..., :-4], outputs[LOGITS][..., -4:]
        grid = boxes.make_grid(distances.shape[1], self.levels)
        box = boxes.distances_to_boxes(grid.centers / grid.side, distances * (grid.strides / grid.side))
        return {"scores": keras.ops.sigmoid(class_logits), "boxes": box}

    def postprocess(self, outputs: Batch) -> np.ndarray:
        """Return the objects of decoded outputs: box in pixels, score and class, (batch, K, 6)."""
        scores, box = outputs["scores"], outputs["boxes"]
        batches = [slice(start, start + _BATCH_SIZE) for start in range(0, len(scores), _BATCH_SIZE)]
        rows = [self._to_rows(scores[batch], box[batch]) for batch in batches]
        return np.concatenate(rows) if rows else np.zeros((0, self.max_detections, 6), np.float32)

    def postprocess_with_names(
        self, outputs: dict[str, tf.Tensor], nms_inputs: Mapping[str, Any] | None = None
    ) -> dict[str, tf.Tensor]:
        """Return `boxes`, `scores` and class names `labels` of the objects, as the SavedModel outputs them.

        Args:
            outputs: Decoded outputs.
            nms_inputs: Values of `NMS_INPUTS`, each (batch,); None for the thresholds of the head.
        """
        thresholds = (
            [nms_inputs[name] for name in NMS_INPUTS] if nms_inputs else [self.score_threshold, self.iou_threshold]
        )
        box, score, label = self._run_nms(outputs["scores"], outputs["boxes"], *thresholds)
        names = tf.constant([*self.names, ""])  # the last one for padding, class -1
        return {"boxes": box, "scores": score, "labels": tf.gather(names, label % (len(self.names) + 1))}

    def _to_rows(self, scores: np.ndarray, boxes_as_fractions: np.ndarray) -> np.ndarray:
        box, score, label = self._run_nms(scores, boxes_as_fractions, self.score_threshold, self.iou_threshold)
        pixels = np.asarray(box) * boxes.make_grid(scores.shape[1], self.levels).side
        return np.concatenate([pixels, np.asarray(score)[..., None], np.asarray(label, np.float32)[..., None]], -1)

    def _run_nms(
        self, scores: Any, boxes_as_fractions: Any, score_threshold: Any, iou_threshold: Any, max_per_image: Any = None
    ) -> Any:
        objects = boxes.batched_nms(
            keras.ops.convert_to_tensor(scores, "float32"),
            keras.ops.clip(boxes_as_fractions, 0.0, 1.0),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=self.max_detections,
            pre_nms_topk=5 * self.max_detections,
        )
        return objects if max_per_image is None else boxes.keep_first_objects(*objects, max_per_image)
