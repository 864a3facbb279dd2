"""Batches as arrays in memory: some rows of one, several as one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfx_finetune.types.aliases import Batch


def take(batch: Batch, indices: Any) -> Batch:
    """Some rows of every array."""
    return {name: np.asarray(values[indices]) for name, values in batch.items()}


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """Positions of up to `most` of `count` samples, evenly spaced: they often come class by class."""
    return np.linspace(0, count - 1, min(count, max_count)).round().astype(int)
