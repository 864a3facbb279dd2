"""Scores of detections compared with pycocotools and with numbers by hand."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tfx_finetune.tasks import average_precision, error_analysis
from tfx_finetune.tasks.detect import detect
from tfx_finetune.types.task import ClassLabels

NAMES = ("ägg", "猫", "🦊")
TASK = detect(ClassLabels(NAMES, (6, 3, 1), 10), display_threshold=0.5)
NOTHING = [0.0, 0, 0, 0, 0, -1]


def targets(*pictures, most=4):
    """Return targets (n, most, 6) from lists of left, top, right, bottom, class and kind."""
    rows_by_image = np.zeros((len(pictures), most, 6), np.float32)
    for image, rows in enumerate(pictures):
        rows_by_image[image, : len(rows)] = np.reshape(rows, (-1, 6))
    return rows_by_image


def detections(*pictures, most=5):
    """Return detections (n, most, 6) from lists of left, top, right, bottom, score and class."""
    rows_by_image = np.tile(np.float32(NOTHING), (len(pictures), most, 1))
    for image, rows in enumerate(pictures):
        rows_by_image[image, : len(rows)] = np.reshape(rows, (-1, 6))
    return rows_by_image


def random_scenes(seed, pictures=40, most=30):
    """Return random objects with crowds and empty images, and correct, nearly correct and wrong detections."""
    rng = np.random.default_rng(seed)
    truth, predictions = np.zeros((pictures, 10, 6), np.float32), np.tile(np.float32(NOTHING), (pictures, most, 1))
    for image in range(pictures):
        count = rng.integers(0, 8)
        corner, sides = rng.uniform(0, 250, (count, 2)), rng.uniform(5, 150, (count, 2))
        kind = np.where(rng.random(count) < 0.15, 2, 1)
        truth[image, :count] = np.column_stack([corner, corner + sides, rng.integers(0, 3, count), kind])
        num_predictions = rng.integers(0, most)
        rows = truth[image, rng.integers(0, max(count, 1), num_predictions)]
        boxes = rows[:, :4] + rng.normal(0, 5, (num_predictions, 4)) * (rng.random((num_predictions, 1)) < 0.8)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        label = np.where(rng.random(num_predictions) < 0.8, rows[:, 4], rng.integers(0, 3, num_predictions))
        predictions[image, :num_predictions] = np.column_stack(
            [boxes, np.sort(rng.random(num_predictions))[::-1], label]
        )
    return truth, predictions


def by_pycocotools(truth, predictions):
    """Return the evaluation of pycocotools."""
    coco = COCO()
    boxes = [(at, row) for at, rows in enumerate(truth) for row in rows.astype(float).tolist() if row[5]]
    coco.dataset = {
        "images": [{"id": at, "width": 320, "height": 320} for at in range(len(truth))],
        "categories": [{"id": at, "name": name} for at, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": number,
                "image_id": at,
                "category_id": int(label),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(kind == 2),
            }
            for number, (at, (left, top, right, bottom, label, kind)) in enumerate(boxes, 1)
        ],
    }
    coco.createIndex()
    results = [
        {"image_id": at, "category_id": int(c), "bbox": [x, y, right - x, bottom - y], "score": score}
        for at, rows in enumerate(predictions)
        for x, y, right, bottom, score, c in rows.astype(float).tolist()
        if c >= 0
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_pycocotools(seed, capsys):
    """All scores, by size and class, and the curves equal those of pycocotools; nothing is printed."""
    truth, predictions = random_scenes(seed)
    scores = average_precision.compute_ap_metrics(NAMES, truth, predictions)
    curves = scores["curves"]
    assert not capsys.readouterr().out
    evaluation = by_pycocotools(truth, predictions)
    named = ("map", "ap50", "ap75", "map_small", "map_medium", "map_large")
    recalls = ("average_recall_1", "average_recall_10", "average_recall")
    assert [scores[name] for name in (*named, *recalls)] == pytest.approx(evaluation.stats[:9].tolist(), abs=1e-9)
    assert 0.1 < scores["map"] < 0.9
    precision = evaluation.eval["precision"]
    for index, name in enumerate(NAMES):
        mean = precision[:, :, index, 0, 2].mean()
        assert scores["per_class"][name]["average_precision"] == pytest.approx(mean, abs=1e-9)
        np.testing.assert_allclose(curves[name], precision[0, :, index, 0, 2], atol=5.1e-5)
    assert np.mean(list(curves.values())) == pytest.approx(scores["ap50"], abs=5.1e-5)


def test_average_precision_by_hand():
    """Two objects of one class; the surest detection is right, the second wrong, the third right at IoU 0.8.

    Up to a recall of 1/2 precision is 1, then 2/3: (51 + 50 * 2/3) / 101 for overlaps up to 0.8, above it 51 / 101.
    """
    truth = targets([(0, 0, 10, 10, 0, 1), (50, 50, 60, 60, 0, 1)])
    predictions = detections([(0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (50, 50, 60, 58.001, 0.7, 0)])
    scores = average_precision.compute_ap_metrics(NAMES, truth, predictions)
    half = (51 + 50 * 2 / 3) / 101
    assert scores["ap50"] == scores["ap75"] == pytest.approx(half)
    assert scores["map"] == pytest.approx((7 * half + 3 * 51 / 101) / 10)
    assert scores["map"] == scores["map_small"] == scores["per_class"]["ägg"]["average_precision"]
    assert "map_large" not in scores  # there is none
    assert scores["average_recall"] == pytest.approx((7 + 3 * 0.5) / 10)
    assert scores["average_recall_1"] == 0.5
    assert scores["curves"] == {"ägg": [1.0] * 51 + [0.6667] * 50}


def oracle(truth):
    perfect = np.concatenate([truth[..., :4], np.full_like(truth[..., :1], 0.9), truth[..., 4:5]], -1)
    perfect[truth[..., 5] != 1] = NOTHING
    return perfect


def test_perfect_and_empty_detections():
    """Perfect detections have scores of 1 and no errors; no detections have scores of 0."""
    truth, _ = random_scenes(5)
    best, worst = (
        TASK.compute_metrics(truth, oracle(truth)),
        TASK.compute_metrics(truth, detections(*[[]] * len(truth))),
    )
    for name in ("map", "ap50", "ap75", "average_recall", "precision", "recall", "f1"):
        assert best[name] == 1.0
        assert worst[name] == 0.0
    assert worst["error_missed"] == 1.0
    assert not any(value for name, value in best.items() if name.startswith("error"))
    assert (TASK.per_sample_score(truth, oracle(truth)) == 1).all()
    empty = (truth[..., 5] != 1).all(-1)
    assert empty.any()
    assert np.array_equal(TASK.per_sample_score(truth, detections(*[[]] * len(truth))) == 1, empty)


def test_detections_in_a_crowd_do_not_count():
    """A detection in a crowd is neither correct nor wrong; one in an image without objects is wrong."""
    truth = targets([(0, 0, 10, 10, 0, 1)], [(0, 0, 50, 50, 0, 2)], [])
    right = (0, 0, 10, 10, 0.9, 0)
    for second, third, average in (((5, 5, 20, 20, 0.95, 0), NOTHING, 1.0), (NOTHING, (5, 5, 20, 20, 0.95, 0), 0.5)):
        predictions = detections([right], [second], [third])
        scores = TASK.compute_metrics(truth, predictions)
        assert scores["map"] == pytest.approx(average)
        assert scores["precision"] == average
        assert scores["error_background"] == float(average == 0.5)
        assert TASK.per_sample_score(truth, predictions).tolist() == [1, 1, float(average == 1.0)]


def test_metrics_are_json_with_all_classes():
    """Metrics are plain floats, with a row for each class, even without samples."""
    for truth, predictions in (random_scenes(1), (targets([], []), detections([], []))):
        scores = TASK.compute_metrics(truth, predictions)
        assert json.loads(json.dumps(scores, allow_nan=False)) == scores
        assert all(type(value) is float for name, value in scores.items() if name not in ("per_class", "curves"))
        assert list(scores["per_class"]) == list(NAMES)
        keys = ["precision", "recall", "f1", "support", "average_precision"]
        assert all(list(row) == keys for row in scores["per_class"].values())
    truth, predictions = random_scenes(1)
    assert (
        sum(row["support"] for row in TASK.compute_metrics(truth, predictions)["per_class"].values())
        == (truth[..., 5] == 1).sum()
    )


def test_error_types():
    """Detections have the error types of TIDE (arXiv 2008.08115, figure 2)."""
    target = targets([(0, 0, 20, 20, 0, 1), (50, 0, 70, 20, 1, 1), (0, 50, 20, 70, 2, 1), (50, 50, 90, 90, 2, 2)])[0]
    predictions = detections(
        [
            (0, 0, 20, 20, 0.99, 0),  # correct
            (0, 0, 20, 19, 0.98, 0),  # a surer one has it
            (50, 0, 70, 20, 0.97, 0),  # it is of class 1
            (0, 50, 20, 59, 0.96, 2),  # 0.45 of the union
            (50, 0, 70, 8, 0.95, 2),  # 0.4 of the union, of class 1
            (30, 30, 40, 40, 0.94, 0),  # nothing
            (50, 50, 70, 70, 0.93, 2),  # in the crowd
            (50, 0, 70, 20, 0.4, 1),  # below the threshold
        ],
        most=10,
    )[0]
    result = error_analysis.match_detections(target, predictions, 0.5)
    types = ["correct", "duplicate", "class", "localization", "both", "background", "crowd"]
    assert [error_analysis.MATCH_TYPES[index] for index in result.match_type[:7]] == types
    assert result.match_type[7:].tolist() == [-1, -1, -1]
    assert result.matched_gt.tolist() == [0, 0, 1, 2, 1, -1, -1, -1, -1, -1]
    assert result.false_negatives.tolist() == [False, True, True, False]
    assert not result.missed.any()
    scores = error_analysis.compute_error_metrics(NAMES, target[None], predictions[None], 0.5)
    assert all(scores[f"error_{type_name}"] == pytest.approx(1 / 3) for type_name in types[1:-1])
    assert scores["error_missed"] == 0
    assert (scores["precision"], scores["recall"]) == pytest.approx((1 / 6, 1 / 3))
    assert scores["f1"] == pytest.approx(2 / (2 + 5 + 2))
    assert scores["per_class"]["ägg"] == pytest.approx({"precision": 1 / 4, "recall": 1, "f1": 2 / 5, "support": 1})
    assert TASK.per_sample_score(target[None], predictions[None]) == pytest.approx([2 / 9])


def test_the_detection_with_the_higher_score_is_matched():
    """Detections are matched in order of their scores, each to the object with the highest IoU."""
    target = targets([(0, 0, 20, 20, 0, 1), (4, 0, 24, 20, 0, 1)])[0]
    predictions = detections([(0, 0, 20, 20, 0.6, 0), (4, 0, 24, 20, 0.7, 0), (0, 0, 20, 20, 0.9, 0)])[0]
    result = error_analysis.match_detections(target, predictions, 0.5)
    assert [error_analysis.MATCH_TYPES[index] for index in result.match_type[:3]] == ["duplicate", "correct", "correct"]
    assert result.matched_gt[1:3].tolist() == [1, 0]
