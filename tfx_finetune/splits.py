"""Which side of the split a sample stands on: by a stable hash, stratified, what belongs together kept together."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def assign(
    digests: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    shares: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Assigns every sample to `train` or to one of the held-out splits.

    Samples of equal content, or of one group, make a unit that is never divided, transitively. Within each label the
    units are put in the order of a hash of the seed and their content, and cut at the shares: the order in which the
    samples are read does not matter, and a sample that is added moves few others.

    Args:
        digests: Content hash of each sample.
        labels: Label of each sample, by which the split is stratified.
        groups: Group of each sample, empty for none.
        shares: Share of the samples for each held-out split, such as {"test": 0.25, "val": 0.1}; the rest is `train`.
        seed: Another seed gives another split.

    Returns:
        (n,) array of split names. Every label keeps at least one unit in `train`; a label with at least two units
        has one in the first of `shares` that is not empty.
    """
    split = np.full(len(digests), "train", dtype=object)
    units = _units(digests, groups)
    by_label: dict[str, list[list[int]]] = {}
    for unit in units:
        by_label.setdefault(_commonest([labels[row] for row in unit]), []).append(unit)
    for members in by_label.values():
        ordered = sorted(members, key=lambda unit: _order(seed, min(digests[row] for row in unit)))
        for name, unit in _cut(ordered, shares):
            split[unit] = name
    return split


def _units(digests: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray) -> list[list[int]]:
    """Connected components of samples that share content or group, by union-find."""
    parent = list(range(len(digests)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, keys in enumerate(zip(digests, groups, strict=True)):
        for kind, key in zip(("digest", "group"), keys, strict=True):
            if key:
                parent[root(row)] = root(first.setdefault((kind, key), row))
    units: dict[int, list[int]] = {}
    for row in range(len(digests)):
        units.setdefault(root(row), []).append(row)
    return list(units.values())


def _cut(units: list[list[int]], shares: Mapping[str, float]) -> list[tuple[str, list[int]]]:
    """Takes units from the front for each held-out split until its share of the samples is reached."""
    total = sum(map(len, units))
    taken: list[tuple[str, list[int]]] = []
    left = list(units)
    for position, (name, share) in enumerate(shares.items()):
        wanted = share * total
        have = 0
        # A unit is taken while that brings the count nearer to the share; the last unit always stays in train.
        while len(left) > 1 and (have + len(left[0]) / 2 <= wanted or (position == 0 and have == 0 and share > 0)):
            have += len(left[0])
            taken.append((name, left.pop(0)))
    return taken


def _commonest(labels: Sequence[str]) -> str:
    return max(sorted(set(labels)), key=list(labels).count)


def _order(seed: int, digest: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=16).digest()
