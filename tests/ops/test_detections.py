"""The NumPy postprocessing in a bundle against the graph of the SavedModel."""

import numpy as np
import pytest

from tfx_finetune.ops import boxes
from tfx_finetune.ops.detections import iou, postprocess_detections


def make_outputs(seed: int, anchors: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and boxes, many of which overlap."""
    rng = np.random.default_rng(seed)
    center, size = rng.random((anchors, 2)), rng.uniform(0.05, 0.5, (anchors, 2))
    box = np.concatenate([center - size / 2, center + size / 2], -1).astype(np.float32)
    return rng.random((anchors, classes), np.float32) ** 3, box


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("score_threshold", "iou_threshold", "max_detections"), [(0.05, 0.6, 100), (0.3, 0.3, 20), (0.9, 0.5, 5)]
)
def test_numpy_postprocessing_equals_the_graph(seed, score_threshold, iou_threshold, max_detections):
    """Both select the same objects in the same order."""
    scores, dense_boxes = make_outputs(seed)
    outputs = boxes.batched_nms(
        scores[None],
        np.clip(dense_boxes, 0, 1)[None],
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        pre_nms_topk=5 * max_detections,
    )
    box, score, label = (np.asarray(values)[0] for values in outputs)
    is_object = score > 0
    detections = postprocess_detections(scores, dense_boxes, score_threshold, iou_threshold, max_detections)
    np.testing.assert_allclose(detections[0], box[is_object], atol=1e-6)
    np.testing.assert_allclose(detections[1], score[is_object])
    np.testing.assert_array_equal(detections[2], label[is_object])


def test_iou_equals_values_by_hand():
    """Unit squares half a side apart have an IoU of 1/3; a box without area has an IoU of 0."""
    box = np.array([0.0, 0.0, 1.0, 1.0])
    others = np.array([[0.5, 0.0, 1.5, 1.0], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_allclose(iou(box, others), [1 / 3, 0, 1, 0])


def test_scores_below_the_threshold_give_empty_arrays():
    """Boxes, scores and classes are empty arrays of the right rank."""
    box, score, label = postprocess_detections(np.zeros((10, 3), np.float32), np.zeros((10, 4), np.float32))
    assert box.shape == (0, 4)
    assert score.shape == label.shape == (0,)
