"""Example test images for the report: ground truth and predictions of detection and segmentation heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.ops.arrays import evenly_spaced
from tfx_finetune.report.page import LocalizationExample
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.task import Task

# Per head: the images with the lowest scores, and others evenly spaced from the lowest to the highest score.
_NUM_WORST, _NUM_SPREAD = 8, 8


def collect_examples(data: Data, test: FeatureStore, targets: Batch, outputs: Batch) -> list[LocalizationExample]:
    """Return example images of every detection and segmentation head, lowest scores first.

    Args:
        data: Data of the run.
        test: Prepared test samples.
        targets: Targets by head, (n, ...).
        outputs: Decoded outputs `<head>/scores` of the trained model, (n, ...).
    """
    files = data.table.file[data.table.split == "test"]
    examples = []
    for head, task in data.tasks.items():
        if not task.localization:
            continue
        truths, predictions = targets[head], outputs[f"{head}/scores"]
        image_scores = task.per_sample_score(truths, predictions)
        for row in _select_rows(image_scores):
            image = next(iter(test.inputs[0].values()))[row]
            examples.append(
                LocalizationExample(
                    images=(
                        _draw_jpeg(task, image, truths[row], is_truth=True),
                        _draw_jpeg(task, image, predictions[row], is_truth=False),
                    ),
                    file=str(files[row]),
                    truth=_format_truth(data, task, row),
                    predicted=_format_predicted(task.format_prediction(predictions[row])),
                    score=float(image_scores[row]),
                    head=head,
                )
            )
    return examples


def _select_rows(image_scores: np.ndarray) -> list[int]:
    """Return the rows of the lowest scores, then rows evenly spaced over the remaining scores."""
    order = np.argsort(image_scores, kind="stable")
    rest = order[_NUM_WORST:]
    spread = evenly_spaced(len(rest), _NUM_SPREAD)
    return [int(row) for row in (*order[:_NUM_WORST], *rest[spread])]


def _draw_jpeg(task: Task, image: np.ndarray, annotation: np.ndarray, is_truth: bool) -> bytes:
    """Draw a target or a prediction on an image and return it as a JPEG file."""
    if task.localization is None:
        raise ValueError("only detection and segmentation heads can be drawn")
    pixels = task.localization.draw(np.asarray(image).astype(np.uint8), np.asarray(annotation), is_truth)
    return bytes(tf.io.encode_jpeg(pixels, quality=85).numpy())


def _format_truth(data: Data, task: Task, row: int) -> str:
    """Return the true class names of a test sample, or `nothing`."""
    labels = data.table.columns[task.column][data.table.split == "test"]
    return ", ".join(dict.fromkeys(filter(None, labels[row].split("\n")))) or "nothing"


def _format_predicted(record: Mapping[str, Any]) -> str:
    """Return the predicted class names of a formatted prediction, or `nothing`."""
    label = record["label"]
    return (", ".join(dict.fromkeys(label)) if isinstance(label, list) else str(label)) or "nothing"
