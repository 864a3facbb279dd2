"""Which side of the split a sample stands on: by a stable hash, stratified, what belongs together kept together."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tfx_finetune.types.components import LABEL_SEPARATOR


def split_by_stratified_groups(
    digests: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Assigns every sample to `train` or to one of the held-out splits.

    Samples of equal content, or of one group, make a unit that is never divided, transitively. A unit belongs to the
    rarest of its labels, so that rare ones are spread too. Within each label the units are put in the order of a hash
    of the seed and their content, and cut at the shares: the order in which the samples are read does not matter, and
    a sample that is added moves few others.

    Args:
        digests: Content hash of each sample.
        labels: Labels of each sample, joined by `LABEL_SEPARATOR`, by which the split is stratified.
        groups: Group of each sample, empty for none.
        shares: Share of the samples for each held-out split, such as {"test": 0.25, "val": 0.1}; the rest is `train`.
        seed: Another seed gives another split.

    Returns:
        (n,) array of split names. Every label keeps at least one unit in `train`. Where no unit has several labels, a
        label with at least two units has one in the first of `shares`.
    """
    split = np.full(len(digests), "train", dtype=object)
    units = sorted(
        _find_connected_groups(digests, groups), key=lambda unit: _compute_hash(seed, min(digests[row] for row in unit))
    )
    classes = [{name for row in unit for name in labels[row].split(LABEL_SEPARATOR)} for unit in units]
    counts = Counter(name for found in classes for name in found)
    strata: dict[str, list[list[int]]] = {}
    for unit, found in zip(units, classes, strict=True):
        strata.setdefault(min(found, key=lambda name: (counts[name], name)), []).append(unit)
    owed = dict.fromkeys(fractions, 0.0)
    for label in sorted(strata):
        for name, unit in _assign_units(strata[label], fractions, owed):
            split[unit] = name
    # All units of a label may stand under rarer labels, and all be held out there: one comes back.
    trained = {name for unit, found in zip(units, classes, strict=True) if split[unit[0]] == "train" for name in found}
    for unit, found in zip(units, classes, strict=True):
        if not found <= trained:
            split[unit] = "train"
            trained |= found
    return split


def split_sources(
    digests: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    existing_splits: np.ndarray,
    sources: np.ndarray,
    fractions: Mapping[str, Mapping[str, float]],
    seed: int,
) -> np.ndarray:
    """Cuts the splits that each of several sources lacks out of its training part, by `assign`.

    What several sources share is cut as one, on a side that all of them may still give. It goes where one of them came
    with it, if the others may give that side. Two sources that both came with their splits stay as they are.

    Args:
        digests: Content hash of each sample.
        labels: See `assign`.
        groups: See `assign`.
        sides: The part in which each sample came; `train` and `all` are cut, the rest stays; empty for none.
        sources: The source of each sample.
        shares: For each source, the share of each split to be cut.
        seed: Another seed gives another split.

    Returns:
        (n,) array of split names, empty where `sides` is.
    """
    split, used = existing_splits.copy(), np.flatnonzero(existing_splits != "")
    cuts: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for unit in _find_connected_groups(digests[used], groups[used]):
        rows = used[unit]
        free = rows[np.isin(existing_splits[rows], ("train", "all"))]
        if not len(free):
            continue
        owners = list(dict.fromkeys(sources[free]))
        both = tuple(name for name in fractions[owners[0]] if all(name in fractions[owner] for owner in owners))
        owner = next((owner for owner in owners if len(fractions[owner]) == len(both)), owners[0])
        if there := [name for name in both if name in existing_splits[rows]]:
            split[free] = there[0]
        else:
            cuts.setdefault((owner, both), []).extend(free.tolist())
    for (owner, names), cut in cuts.items():
        rows = np.sort(cut)
        wanted = {name: fractions[owner][name] for name in names}
        split[rows] = split_by_stratified_groups(digests[rows], labels[rows], groups[rows], wanted, seed)
    return split


def _find_connected_groups(digests: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray) -> list[list[int]]:
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


def _assign_units(
    units: list[list[int]], fractions: Mapping[str, float], deficits: dict[str, float]
) -> list[tuple[str, list[int]]]:
    """Takes units for each held-out split while that brings the count of its samples nearer to its share.

    Args:
        units: Of one label, in order; the last one left always stays in `train`.
        shares: Of the held-out splits.
        owed: Samples that rounding left over at the labels before; brought up to date. Without it, a split whose
            share of every label rounds to none would stay empty.
    """
    cut: list[tuple[str, list[int]]] = []
    total = sum(map(len, units))
    for position, (name, share) in enumerate(fractions.items()):
        wanted = share * total + deficits[name]
        taken: list[list[int]] = []
        left: list[list[int]] = []
        have = 0
        for unit in units:
            fits = have + len(unit) / 2 <= wanted and len(taken) + 1 < len(units)
            (taken if fits else left).append(unit)
            have += len(unit) if fits else 0
        smallest = min(left, key=len)
        deficits[name] = min(wanted - have, len(smallest) / 2)
        if not taken and position == 0 and len(left) > 1:
            taken, left = [smallest], [unit for unit in left if unit is not smallest]
        cut += [(name, unit) for unit in taken]
        units = left
    return cut


def _compute_hash(seed: int, digest: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=16).digest()
