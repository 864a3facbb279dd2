"""The table of all samples of a source, and the names of its splits and slice columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

UNLABELED = "unlabeled"
"""Split of training samples that have no labels for training; only `--auxiliary_losses` use them."""

SLICE_COLUMNS = ("language", "source", "script")
"""Columns whose values divide the test samples into slices; scores are computed for each slice."""


@dataclass(frozen=True)
class Table:
    """Table with one row per sample of a source, in reading order. All arrays have the shape (n,).

    Attributes:
        file: str array. Path or ID of each sample.
        digest: str array. Hash of all inputs of each sample; empty if the sample cannot be read.
        error: str array. Reason why a sample cannot be used; empty for a valid sample.
        split: str array. `train`, `val`, `test`, `unlabeled`, or empty for a sample that is not used.
        columns: Label columns by name.
        digests: Hashes of each tower's input, by tower; empty if a sample lacks this input.
        warnings: Remarks on the split, for the user.

    Examples:
        >>> rows = {"file": ["a.png", "b.png"], "digest": ["01", ""], "error": ["", "empty file"], "split": ["val", ""]}
        >>> table = Table(**{name: np.array(values) for name, values in rows.items()}, columns={})
        >>> table.size("val"), table.errors
        (1, [('b.png', 'empty file')])
    """

    file: np.ndarray
    digest: np.ndarray
    error: np.ndarray
    split: np.ndarray
    columns: Mapping[str, np.ndarray]
    digests: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def size(self, split: str) -> int:
        """Return the number of samples in a split."""
        return int((self.split == split).sum())

    @property
    def errors(self) -> list[tuple[str, str]]:
        """`(file, error)` of every sample that cannot be used."""
        return [(str(file), str(error)) for file, error in zip(self.file, self.error, strict=True) if error]
