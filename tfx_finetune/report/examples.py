"""Held-out pictures for the report, with what is in them and what was found, right and wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.report.page import LocalizationExample
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task

# Of each head: those that went worst, and some from the worst to the best.
_NUM_WORST, _NUM_SPREAD = 8, 8


def collect_examples(data: Data, test: FeatureStore, targets: Batch, outputs: Batch) -> list[LocalizationExample]:
    """Pictures of every head that finds things in them: the worst first, then others, evenly from worse to better.

    Args:
        data: The samples.
        test: Prepared test samples.
        targets: By head.
        outputs: What was found in them, `<head>/scores`.
    """
    files = data.table.file[data.table.split == "test"]
    found = []
    for head, task in data.tasks.items():
        if task.localization:
            right = task.per_sample_score(targets[head], outputs[f"{head}/scores"])
            for row in _select_rows(right):
                seen = next(iter(test.inputs[0].values()))[row]
                truth, said = targets[head][row], outputs[f"{head}/scores"][row]
                found.append(
                    LocalizationExample(
                        pictures=(_draw_jpeg(task, seen, truth, True), _draw_jpeg(task, seen, said, False)),
                        file=str(files[row]),
                        truth=_format_truth(data, task, row),
                        predicted=_format_predicted(task.format_prediction(said)),
                        score=float(right[row]),
                        head=head,
                    )
                )
    return found


def _select_rows(right: np.ndarray) -> list[int]:
    order = np.argsort(right, kind="stable")
    rest = order[_NUM_WORST:]
    spread = np.unique(np.linspace(0, len(rest) - 1, min(_NUM_SPREAD, len(rest))).round().astype(int))
    return [int(row) for row in (*order[:_NUM_WORST], *rest[spread])]


def _draw_jpeg(task: Task, image: np.ndarray, content: np.ndarray, truth: bool) -> bytes:
    if task.localization is None:
        raise ValueError("a head that finds nothing in pictures")
    pixels = task.localization.draw(np.asarray(image).astype(np.uint8), np.asarray(content), truth)
    return bytes(tf.io.encode_jpeg(pixels, quality=85).numpy())


def _format_truth(data: Data, task: Task, row: int) -> str:
    held = data.table.columns[task.column][data.table.split == "test"]
    return ", ".join(dict.fromkeys(filter(None, held[row].split("\n")))) or "nothing"


def _format_predicted(record: Mapping[str, Any]) -> str:
    label = record["label"]
    return (", ".join(dict.fromkeys(label)) if isinstance(label, list) else str(label)) or "nothing"
