"""Batches as arrays in memory: some rows of one, several as one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfx_finetune.types.aliases import Batch


def rows(batch: Batch, chosen: Any) -> Batch:
    """Some rows of every array."""
    return {name: np.asarray(values[chosen]) for name, values in batch.items()}


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def evenly(count: int, most: int) -> np.ndarray:
    """Positions of up to `most` of `count` samples, evenly spaced: they often come class by class."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
