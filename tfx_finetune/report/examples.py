"""Held-out pictures for the report, with what is in them and what was found, right and wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.report.page import Scene
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task

# Of each head: those that went worst, and some from the worst to the best.
_WORST, _SPREAD = 8, 8


def scenes(data: Data, test: Store, targets: Batch, outputs: Batch) -> list[Scene]:
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
        if task.places:
            right = task.correct(targets[head], outputs[f"{head}/scores"])
            for row in _chosen(right):
                seen = next(iter(test.inputs[0].values()))[row]
                truth, said = targets[head][row], outputs[f"{head}/scores"][row]
                found.append(
                    Scene(
                        pictures=(_drawn(task, seen, truth, True), _drawn(task, seen, said, False)),
                        file=str(files[row]),
                        truth=_classes(data, task, row),
                        found=_said(task.predict(said)),
                        score=float(right[row]),
                        head=head,
                    )
                )
    return found


def _chosen(right: np.ndarray) -> list[int]:
    order = np.argsort(right, kind="stable")
    rest = order[_WORST:]
    spread = np.unique(np.linspace(0, len(rest) - 1, min(_SPREAD, len(rest))).round().astype(int))
    return [int(row) for row in (*order[:_WORST], *rest[spread])]


def _drawn(task: Task, seen: np.ndarray, what: np.ndarray, truth: bool) -> bytes:
    if task.places is None:
        raise ValueError("a head that finds nothing in pictures")
    pixels = task.places.draw(np.asarray(seen).astype(np.uint8), np.asarray(what), truth)
    return bytes(tf.io.encode_jpeg(pixels, quality=85).numpy())


def _classes(data: Data, task: Task, row: int) -> str:
    held = data.table.columns[task.column][data.table.split == "test"]
    return ", ".join(dict.fromkeys(filter(None, held[row].split("\n")))) or "nothing"


def _said(record: Mapping[str, Any]) -> str:
    label = record["label"]
    return (", ".join(dict.fromkeys(label)) if isinstance(label, list) else str(label)) or "nothing"
