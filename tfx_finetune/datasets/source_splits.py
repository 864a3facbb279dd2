"""Which side of the split samples stand on, of several sources each by itself; what these have in common."""

from collections.abc import Iterator

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import SplitOptions
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets import splits
from tfx_finetune.datasets.mixture import SOURCE_COLUMN, MixtureSource
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.table import Table


def assign_splits(
    table: Table, source: Source, columns: tuple[str, ...], split_options: SplitOptions, seed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Carves the splits that a source lacks out of its training part, of several sources for each by itself.

    Args:
        table: The samples; their splits are the source's own parts.
        source: The data.
        columns: Of labels, by all of which at once it is stratified.
        samples: Which shares are held out.
        seed: Another seed gives another split.

    Returns:
        The side of each sample, (n,), and what a person should know of samples that several sources have.

    Raises:
        UserError: A source has no training part.
    """
    members = source.members if isinstance(source, MixtureSource) else {"": source}
    # Test comes first: a class of two samples has the second one there.
    wanted = {"test": split_options.test, "val": split_options.val}
    shares = {}
    for name, member in members.items():
        if not {"all", "train"} & set(member.sizes):
            received = ": ".join(filter(None, [name, ", ".join(member.sizes)]))
            todo = "give it a split train, or none, so that one is made"
            raise UserError("the data has no training part", got=received, hint=todo)
        shares[name] = {held: share for held, share in wanted.items() if held not in member.sizes and share > 0}
    lanes = table.columns[SOURCE_COLUMN] if isinstance(source, MixtureSource) else np.full(len(table.split), "", object)
    keys = np.array([_make_stratum(table, row, columns) for row in range(len(table.split))], object)
    split = splits.split_sources(table.digest, keys, table.columns["group"], table.split, lanes, shares, seed)
    return split, tuple(_warn_about_sources(table, split, columns)) if isinstance(source, MixtureSource) else ()


def _make_stratum(table: Table, row: int, columns: tuple[str, ...]) -> str:
    """The row's labels in all columns."""
    labels = ((column, label) for column in columns for label in table.columns[column][row].split(LABEL_SEPARATOR))
    return LABEL_SEPARATOR.join(f"{column}={label}" for column, label in labels)


def _warn_about_sources(table: Table, split: np.ndarray, columns: tuple[str, ...]) -> Iterator[str]:
    """What several sources have in common, and what one has alone; said and returned."""
    used = split != ""
    lanes, sides = (
        _group_values_by_key(table.digest[used], table.columns[SOURCE_COLUMN][used]),
        _group_values_by_key(table.digest[used], split[used]),
    )
    shared = [digest for digest, names in lanes.items() if len(names) > 1]
    notes = [f"{len(shared)} samples stand in more than one source"] if shared else []
    if count := sum(len(sides[digest]) > 1 for digest in shared):
        notes.append(f"{count} samples of one source stand on another side of the split that another one came with")
    for column in (column for column in columns if column != SOURCE_COLUMN):
        found = _group_values_by_key(table.columns[SOURCE_COLUMN][used], table.columns[column][used])
        for name, mine in found.items():
            others = set().union(*(labels for other, labels in found.items() if other != name))
            if len(found) > 1 and (alone := sorted(mine - others - {""})):
                notes.append(
                    f"{len(alone)} of {len(mine)} classes of {column} are in the source {name} alone: "
                    f"{progress.shorten_list(alone)}"
                )
    for note in notes:
        progress.log(note)
        yield note


def _group_values_by_key(keys: np.ndarray, values: np.ndarray) -> dict[str, set[str]]:
    """The values, of several labels each, that stand beside each key."""
    found: dict[str, set[str]] = {}
    for key, value in sorted(set(zip(keys, values, strict=True))):
        found.setdefault(key, set()).update(value.split(LABEL_SEPARATOR))
    return found
