"""Scores of detections against COCO's own code, and against numbers worked out by hand."""

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
    """(n, most, 6) of lists of left, top, right, bottom, class, kind."""
    found = np.zeros((len(pictures), most, 6), np.float32)
    for at, rows in enumerate(pictures):
        found[at, : len(rows)] = np.reshape(rows, (-1, 6))
    return found


def detections(*pictures, most=5):
    """(n, most, 6) of lists of left, top, right, bottom, score, class."""
    found = np.tile(np.float32(NOTHING), (len(pictures), most, 1))
    for at, rows in enumerate(pictures):
        found[at, : len(rows)] = np.reshape(rows, (-1, 6))
    return found


def random_scenes(seed, pictures=40, most=30):
    """Objects of all sizes with crowds and empty pictures, and detections right and nearly right and wrong."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((pictures, 10, 6), np.float32), np.tile(np.float32(NOTHING), (pictures, most, 1))
    for at in range(pictures):
        count = rng.integers(0, 8)
        corner, sides = rng.uniform(0, 250, (count, 2)), rng.uniform(5, 150, (count, 2))
        kind = np.where(rng.random(count) < 0.15, 2, 1)
        truth[at, :count] = np.column_stack([corner, corner + sides, rng.integers(0, 3, count), kind])
        said = rng.integers(0, most)
        rows = truth[at, rng.integers(0, max(count, 1), said)]
        boxes = rows[:, :4] + rng.normal(0, 5, (said, 4)) * (rng.random((said, 1)) < 0.8)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        label = np.where(rng.random(said) < 0.8, rows[:, 4], rng.integers(0, 3, said))
        found[at, :said] = np.column_stack([boxes, np.sort(rng.random(said))[::-1], label])
    return truth, found


def by_pycocotools(truth, found):
    """The numbers that COCO prints, from its own files of JSON."""
    known = COCO()
    boxes = [(at, row) for at, rows in enumerate(truth) for row in rows.astype(float).tolist() if row[5]]
    known.dataset = {
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
    known.createIndex()
    said = [
        {"image_id": at, "category_id": int(c), "bbox": [x, y, right - x, bottom - y], "score": score}
        for at, rows in enumerate(found)
        for x, y, right, bottom, score, c in rows.astype(float).tolist()
        if c >= 0
    ]
    run = COCOeval(known, known.loadRes(said), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pycocotools(seed, capsys):
    """All of them, of every size and class, and the curves; nothing is printed."""
    truth, found = random_scenes(seed)
    ours = average_precision.compute_ap_metrics(NAMES, truth, found)
    curves = ours["curves"]
    assert not capsys.readouterr().out
    theirs = by_pycocotools(truth, found)
    named = ("map", "ap50", "ap75", "map_small", "map_medium", "map_large")
    recalls = ("average_recall_1", "average_recall_10", "average_recall")
    assert [ours[name] for name in (*named, *recalls)] == pytest.approx(theirs.stats[:9].tolist(), abs=1e-9)
    assert 0.1 < ours["map"] < 0.9
    precision = theirs.eval["precision"]
    for at, name in enumerate(NAMES):
        mean = precision[:, :, at, 0, 2].mean()
        assert ours["per_class"][name]["average_precision"] == pytest.approx(mean, abs=1e-9)
        np.testing.assert_allclose(curves[name], precision[0, :, at, 0, 2], atol=5.1e-5)
    assert np.mean(list(curves.values())) == pytest.approx(ours["ap50"], abs=5.1e-5)


def test_average_precision_by_hand():
    """Two objects of one class; the surest detection is right, the second wrong, the third right at IoU 0.8.

    Up to a recall of 1/2 precision is 1, then 2/3: (51 + 50 * 2/3) / 101 for overlaps up to 0.8, above it 51 / 101.
    """
    truth = targets([(0, 0, 10, 10, 0, 1), (50, 50, 60, 60, 0, 1)])
    said = detections([(0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (50, 50, 60, 58.001, 0.7, 0)])
    scores = average_precision.compute_ap_metrics(NAMES, truth, said)
    half = (51 + 50 * 2 / 3) / 101
    assert scores["ap50"] == scores["ap75"] == pytest.approx(half)
    assert scores["map"] == pytest.approx((7 * half + 3 * 51 / 101) / 10)
    assert scores["map"] == scores["map_small"] == scores["per_class"]["ägg"]["average_precision"]
    assert "map_large" not in scores  # there is none
    assert scores["average_recall"] == pytest.approx((7 + 3 * 0.5) / 10)
    assert scores["average_recall_1"] == 0.5
    assert scores["curves"] == {"ägg": [1.0] * 51 + [0.6667] * 50}


def oracle(truth):
    found = np.concatenate([truth[..., :4], np.full_like(truth[..., :1], 0.9), truth[..., 4:5]], -1)
    found[truth[..., 5] != 1] = NOTHING
    return found


def test_an_oracle_has_one_and_silence_zero():
    """Crowds need not be found; pictures without objects are no loss."""
    truth, _ = random_scenes(5)
    best, worst = TASK.compute_metrics(truth, oracle(truth)), TASK.compute_metrics(truth, detections(*[[]] * len(truth)))
    for name in ("map", "ap50", "ap75", "average_recall", "precision", "recall", "f1"):
        assert best[name] == 1.0
        assert worst[name] == 0.0
    assert worst["error_missed"] == 1.0
    assert not any(value for name, value in best.items() if name.startswith("error"))
    assert (TASK.per_sample_score(truth, oracle(truth)) == 1).all()
    empty = (truth[..., 5] != 1).all(-1)
    assert empty.any()
    assert np.array_equal(TASK.per_sample_score(truth, detections(*[[]] * len(truth))) == 1, empty)


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    """And what is found in a picture without objects is wrong."""
    truth = targets([(0, 0, 10, 10, 0, 1)], [(0, 0, 50, 50, 0, 2)], [])
    right = (0, 0, 10, 10, 0.9, 0)
    for second, third, average in (((5, 5, 20, 20, 0.95, 0), NOTHING, 1.0), (NOTHING, (5, 5, 20, 20, 0.95, 0), 0.5)):
        said = detections([right], [second], [third])
        scores = TASK.compute_metrics(truth, said)
        assert scores["map"] == pytest.approx(average)
        assert scores["precision"] == average
        assert scores["error_background"] == float(average == 0.5)
        assert TASK.per_sample_score(truth, said).tolist() == [1, 1, float(average == 1.0)]


def test_scores_are_json_and_of_every_class():
    """Plain floats, and rows of classes as every task has them; also where there is nothing at all."""
    for truth, found in (random_scenes(1), (targets([], []), detections([], []))):
        scores = TASK.compute_metrics(truth, found)
        assert json.loads(json.dumps(scores, allow_nan=False)) == scores
        assert all(type(value) is float for name, value in scores.items() if name not in ("per_class", "curves"))
        assert list(scores["per_class"]) == list(NAMES)
        keys = ["precision", "recall", "f1", "support", "average_precision"]
        assert all(list(row) == keys for row in scores["per_class"].values())
    truth, found = random_scenes(1)
    assert sum(row["support"] for row in TASK.compute_metrics(truth, found)["per_class"].values()) == (truth[..., 5] == 1).sum()


def test_every_error_has_its_kind():
    """The kinds of TIDE (arXiv 2008.08115, figure 2) and what they are of; half of a box is no 0.5 of the union."""
    target = targets([(0, 0, 20, 20, 0, 1), (50, 0, 70, 20, 1, 1), (0, 50, 20, 70, 2, 1), (50, 50, 90, 90, 2, 2)])[0]
    found = detections(
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
    judged = error_analysis.match_detections(target, found, 0.5)
    kinds = ["correct", "duplicate", "class", "localization", "both", "background", "crowd"]
    assert [error_analysis.MATCH_TYPES[said] for said in judged.match_type[:7]] == kinds
    assert judged.match_type[7:].tolist() == [-1, -1, -1]
    assert judged.matched_gt.tolist() == [0, 0, 1, 2, 1, -1, -1, -1, -1, -1]
    assert judged.false_negatives.tolist() == [False, True, True, False]
    assert not judged.missed.any()
    scores = error_analysis.compute_error_metrics(NAMES, target[None], found[None], 0.5)
    assert all(scores[f"error_{kind}"] == pytest.approx(1 / 3) for kind in kinds[1:-1])
    assert scores["error_missed"] == 0
    assert (scores["precision"], scores["recall"]) == pytest.approx((1 / 6, 1 / 3))
    assert scores["f1"] == pytest.approx(2 / (2 + 5 + 2))
    assert scores["per_class"]["ägg"] == pytest.approx({"precision": 1 / 4, "recall": 1, "f1": 2 / 5, "support": 1})
    assert TASK.per_sample_score(target[None], found[None]) == pytest.approx([2 / 9])


def test_the_surer_of_two_detections_has_the_object():
    """In whatever order they come, and each of two objects is given to the one that fits."""
    target = targets([(0, 0, 20, 20, 0, 1), (4, 0, 24, 20, 0, 1)])[0]
    found = detections([(0, 0, 20, 20, 0.6, 0), (4, 0, 24, 20, 0.7, 0), (0, 0, 20, 20, 0.9, 0)])[0]
    judged = error_analysis.match_detections(target, found, 0.5)
    assert [error_analysis.MATCH_TYPES[said] for said in judged.match_type[:3]] == ["duplicate", "correct", "correct"]
    assert judged.matched_gt[1:3].tolist() == [1, 0]
