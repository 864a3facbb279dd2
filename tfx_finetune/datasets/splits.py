"""Stratified splits by a stable hash; samples with the same content or group stay in one split."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfx_finetune.types.components import LABEL_SEPARATOR

Unit = list[int]
"""Indices of samples that stay together in one split."""


class SampleKeys(NamedTuple):
    """Keys that decide the split of samples.

    Attributes:
        digests: Content hashes (n,).
        labels: Labels (n,), each joined by `LABEL_SEPARATOR`.
        groups: Groups (n,), empty for none.
    """

    digests: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def split_by_stratified_groups(
    digests: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Assign every sample to `train` or to a held-out split, as scikit-learn's StratifiedGroupKFold does for folds.

    Samples with the same content or the same group are one unit, transitively, and stay together. A unit is stratified
    by the rarest of its labels. Within each label, the units are sorted by a hash of the seed and their content, and
    cut at the fractions. So the reading order has no effect, and an added sample moves few others.

    Args:
        digests: Content hashes (n,).
        labels: Labels (n,), each joined by `LABEL_SEPARATOR`, by which the split is stratified.
        groups: Groups (n,), empty for none.
        fractions: Fraction of the samples of each held-out split, such as {"test": 0.25, "val": 0.1}; the rest is
            `train`.
        seed: Another seed gives another split.

    Returns:
        Split names (n,). Every label has at least one unit in `train`. If no unit has several labels, a label with at
        least two units has one in the first held-out split.

    Examples:
        >>> split_by_stratified_groups(["d1", "d2", "d3", "d2"], ["cat"] * 4, [""] * 4, {"test": 0.5}, 0)
        array(['train', 'test', 'train', 'test'], dtype=object)
    """
    split = np.full(len(digests), "train", dtype=object)
    units = sorted(
        find_connected_groups(digests, groups), key=lambda unit: _compute_hash(seed, min(digests[row] for row in unit))
    )
    unit_labels = [{name for row in unit for name in labels[row].split(LABEL_SEPARATOR)} for unit in units]
    counts = Counter(name for names in unit_labels for name in names)
    strata: dict[str, list[Unit]] = {}
    for unit, names in zip(units, unit_labels, strict=True):
        strata.setdefault(min(names, key=lambda name: (counts[name], name)), []).append(unit)
    deficits = dict.fromkeys(fractions, 0.0)
    for label in sorted(strata):
        for name, unit in _assign_units(strata[label], fractions, deficits):
            split[unit] = name
    # All units of a label may be stratified by rarer labels, and all be held out there: one returns to train.
    trained = {
        name for unit, names in zip(units, unit_labels, strict=True) if split[unit[0]] == "train" for name in names
    }
    for unit, names in zip(units, unit_labels, strict=True):
        if not names <= trained:
            split[unit] = "train"
            trained |= names
    return split


def split_sources(
    keys: SampleKeys,
    existing_splits: np.ndarray,
    sources: np.ndarray,
    fractions: Mapping[str, Mapping[str, float]],
    seed: int,
) -> np.ndarray:
    """Cut the splits that each source lacks from its training part; see `split_by_stratified_groups`.

    A unit that several sources share is cut once, into a split that all of them may get. If it is already in a held-out
    split of one source, the copies of the others join that split if they may get it. Two sources with their own splits
    stay unchanged.

    Args:
        keys: Content hashes, labels and groups of the samples.
        existing_splits: Part of each sample (n,): `train` and `all` are cut, others stay, empty for unused samples.
        sources: Source of each sample (n,).
        fractions: Fraction of each split to cut, by source.
        seed: Another seed gives another split.

    Returns:
        Split names (n,), empty for unused samples.
    """
    split, used = existing_splits.copy(), np.flatnonzero(existing_splits != "")
    rows_by_cut: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for unit in find_connected_groups(keys.digests[used], keys.groups[used]):
        rows = used[unit]
        train_rows = rows[np.isin(existing_splits[rows], ("train", "all"))]
        if not len(train_rows):
            continue
        owners = list(dict.fromkeys(sources[train_rows]))
        common = tuple(name for name in fractions[owners[0]] if all(name in fractions[owner] for owner in owners))
        owner = next((owner for owner in owners if len(fractions[owner]) == len(common)), owners[0])
        if held_out := [name for name in common if name in existing_splits[rows]]:
            split[train_rows] = held_out[0]
        else:
            rows_by_cut.setdefault((owner, common), []).extend(train_rows.tolist())
    for (owner, names), unsorted_rows in rows_by_cut.items():
        rows = np.sort(unsorted_rows)
        cut_fractions = {name: fractions[owner][name] for name in names}
        digests, labels, groups = (values[rows] for values in keys)
        split[rows] = split_by_stratified_groups(digests, labels, groups, cut_fractions, seed)
    return split


def find_connected_groups(digests: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray) -> list[Unit]:
    """Find the connected components of samples that share content or group, by union-find.

    Args:
        digests: Hash of the content of each sample; samples with an empty one share nothing by it.
        groups: Group of each sample; the same holds for an empty one.

    Returns:
        Indices of the samples of each component, in ascending order, by their first sample.

    Examples:
        >>> find_connected_groups(["a", "b", "a", "c"], ["", "x", "", "x"])
        [[0, 2], [1, 3]]
    """
    parent = list(range(len(digests)))

    def find_root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first_rows: dict[tuple[str, str], int] = {}
    for row, keys in enumerate(zip(digests, groups, strict=True)):
        for kind, key in zip(("digest", "group"), keys, strict=True):
            if key:
                parent[find_root(row)] = find_root(first_rows.setdefault((kind, key), row))
    units: dict[int, Unit] = {}
    for row in range(len(digests)):
        units.setdefault(find_root(row), []).append(row)
    return list(units.values())


def _assign_units(
    units: list[Unit], fractions: Mapping[str, float], deficits: dict[str, float]
) -> list[tuple[str, Unit]]:
    """Take units of one label for each held-out split while this brings its number of samples closer to the fraction.

    Args:
        units: Units of one label, in order. The last remaining one always stays in `train`.
        fractions: Fractions of the held-out splits.
        deficits: Samples that rounding left over at earlier labels, updated in place. Without them, a split whose
            fraction of every label rounds to 0 would stay empty.

    Returns:
        (split, unit) of the units that are held out.
    """
    assigned: list[tuple[str, Unit]] = []
    total = sum(map(len, units))
    for position, (name, fraction) in enumerate(fractions.items()):
        target = fraction * total + deficits[name]
        chosen: list[Unit] = []
        remaining: list[Unit] = []
        count = 0
        for unit in units:
            fits = count + len(unit) / 2 <= target and len(chosen) + 1 < len(units)
            (chosen if fits else remaining).append(unit)
            count += len(unit) if fits else 0
        smallest = min(remaining, key=len)
        deficits[name] = min(target - count, len(smallest) / 2)
        if not chosen and position == 0 and len(remaining) > 1:
            chosen, remaining = [smallest], [unit for unit in remaining if unit is not smallest]
        assigned += [(name, unit) for unit in chosen]
        units = remaining
    return assigned


def _compute_hash(seed: int, digest: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=16).digest()
