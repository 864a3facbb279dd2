"""Batches of NumPy arrays: selection and concatenation of rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfx_finetune.types.aliases import Batch


def take(batch: Batch, indices: Any) -> Batch:
    """Select rows of every array of a batch.

    Args:
        batch: Arrays (n, ...) by name.
        indices: Index of the first axis: int array, bool mask (n,) or slice.

    Examples:
        >>> take({"x": np.array([10, 11, 12])}, [2, 0])
        {'x': array([12, 10])}
    """
    return {name: np.asarray(values[indices]) for name, values in batch.items()}


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches along the first axis.

    Args:
        batches: One or more batches with the same names.

    Examples:
        >>> concatenate([{"x": np.array([1, 2])}, {"x": np.array([3])}])
        {'x': array([1, 2, 3])}
    """
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """Return evenly spaced indices, because samples are often sorted by class.

    Args:
        count: int >= 1. Number of samples.
        max_count: int >= 1. Maximum number of indices.

    Returns:
        int array (min(count, max_count),) of increasing indices.

    Examples:
        >>> evenly_spaced(10, 4)
        array([0, 3, 6, 9])
    """
    return np.linspace(0, count - 1, min(count, max_count)).round().astype(int)
