"""The program that a bundle brings along finds what the package's own graph finds."""

import numpy as np
import pytest

from tfx_finetune.ops import boxes
from tfx_finetune.ops.detections import iou, postprocess_detections


def scene(seed: int, places: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores and boxes, many of which overlap."""
    rng = np.random.default_rng(seed)
    centre, size = rng.random((places, 2)), rng.uniform(0.05, 0.5, (places, 2))
    shares = np.concatenate([centre - size / 2, centre + size / 2], -1).astype(np.float32)
    return rng.random((places, classes), np.float32) ** 3, shares


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("least", "nms", "most"), [(0.05, 0.6, 100), (0.3, 0.3, 20), (0.9, 0.5, 5)])
def test_the_program_finds_what_the_graph_finds(seed, least, nms, most):
    """The same objects in the same order."""
    scores, shares = scene(seed)
    found = boxes.batched_nms(
        scores[None],
        np.clip(shares, 0, 1)[None],
        score_threshold=least,
        iou_threshold=nms,
        max_detections=most,
        pre_nms_topk=5 * most,
    )
    box, score, label = (np.asarray(each)[0] for each in found)
    there = score > 0
    mine = postprocess_detections(scores, shares, least, nms, most)
    np.testing.assert_allclose(mine[0], box[there], atol=1e-6)
    np.testing.assert_allclose(mine[1], score[there])
    np.testing.assert_array_equal(mine[2], label[there])


def test_overlap_by_hand():
    """Two unit squares of which one is moved by half a side share a third; nothing shares nothing."""
    one = np.array([0.0, 0.0, 1.0, 1.0])
    others = np.array([[0.5, 0.0, 1.5, 1.0], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_allclose(iou(one, others), [1 / 3, 0, 1, 0])


def test_nothing_is_found_where_nothing_is():
    """Three empty arrays."""
    box, score, label = postprocess_detections(np.zeros((10, 3), np.float32), np.zeros((10, 4), np.float32))
    assert box.shape == (0, 4)
    assert score.shape == label.shape == (0,)
