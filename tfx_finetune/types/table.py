"""Layer 1: what a survey finds of every sample of a source."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

UNLABELED = "beside"
"""The split of training samples whose labels are not learned: they stand beside others for `--auxiliary_losses` alone."""


@dataclass(frozen=True)
class Table:
    """One row a sample of the source, in the order in which it is read; all arrays are (n,).

    Attributes:
        file: What a person would call the sample.
        digest: Hash of the content, of all that any tower takes; empty where it cannot be read.
        reason: Why the sample cannot be used; empty where it can.
        split: `train`, `val`, `test`, `BESIDE`, or empty for a sample that is not used.
        columns: Label columns by name.
        contents: Hash of what each tower takes; empty where a sample lacks it.
        notes: What a person should know about the split.
    """

    file: np.ndarray
    digest: np.ndarray
    error: np.ndarray
    split: np.ndarray
    columns: Mapping[str, np.ndarray]
    digests: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def size(self, split: str) -> int:
        """Samples of a split."""
        return int((self.split == split).sum())

    @property
    def errors(self) -> list[tuple[str, str]]:
        """`(file, reason)` of every sample that cannot be used."""
        return [(str(f), str(r)) for f, r in zip(self.file, self.error, strict=True) if r]


SLICE_COLUMNS = ("language", "source", "script")
"""Columns that say where a sample comes from; scores are given for each of their values."""
