"""Splits of one or several sources, and warnings about samples and classes that sources share."""

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
    """Cut the splits that a source lacks from its training part; each of several sources is cut separately.

    Args:
        table: Samples; their `split` is the part of the source.
        source: Source of the samples.
        columns: Label columns; the splits are stratified by all of them together.
        split_options: Fractions of the held-out splits.
        seed: Seed of the splits.

    Returns:
        The split of each sample (n,), and warnings about what several sources share.

    Raises:
        UserError: If a source has no training part.
    """
    members = source.members if isinstance(source, MixtureSource) else {"": source}
    # Test comes first: a class of two samples has its second sample there.
    option_values = {"test": split_options.test, "val": split_options.val}
    fractions = {}
    for name, member in members.items():
        if not {"all", "train"} & set(member.sizes):
            got = ": ".join(filter(None, [name, ", ".join(member.sizes)]))
            hint = "add a training split to the data, or remove its splits so that they are made"
            raise UserError("The data has no training split", got=got, hint=hint)
        fractions[name] = {
            split: fraction for split, fraction in option_values.items() if split not in member.sizes and fraction > 0
        }
    count = len(table.split)
    is_mixture = isinstance(source, MixtureSource)
    names = table.columns[SOURCE_COLUMN] if is_mixture else np.full(count, "", object)
    strata = np.array([_make_stratum(table, row, columns) for row in range(count)], object)
    keys = splits.SampleKeys(table.digest, strata, table.columns["group"])
    split = splits.split_sources(keys, table.split, names, fractions, seed)
    return split, tuple(_warn_about_sources(table, split, columns)) if is_mixture else ()


def _make_stratum(table: Table, row: int, columns: tuple[str, ...]) -> str:
    """Join the labels of a row in all columns."""
    labels = ((column, label) for column in columns for label in table.columns[column][row].split(LABEL_SEPARATOR))
    return LABEL_SEPARATOR.join(f"{column}={label}" for column, label in labels)


def _warn_about_sources(table: Table, split: np.ndarray, columns: tuple[str, ...]) -> Iterator[str]:
    """Log and yield warnings about samples in several sources and classes in one source only."""
    in_split = split != ""
    digests, sources = table.digest[in_split], table.columns[SOURCE_COLUMN][in_split]
    sources_by_digest = _group_values_by_key(digests, sources)
    splits_by_digest = _group_values_by_key(digests, split[in_split])
    shared = [digest for digest, names in sources_by_digest.items() if len(names) > 1]
    warnings = [f"{len(shared)} samples are in more than one source"] if shared else []
    if count := sum(len(splits_by_digest[digest]) > 1 for digest in shared):
        warnings.append(f"{count} samples are in different splits of sources that came with splits")
    for column in (column for column in columns if column != SOURCE_COLUMN):
        classes_by_source = _group_values_by_key(sources, table.columns[column][in_split])
        for name, classes in classes_by_source.items():
            other_classes = set().union(*(others for other, others in classes_by_source.items() if other != name))
            if len(classes_by_source) > 1 and (unique := sorted(classes - other_classes - {""})):
                warnings.append(
                    f"{len(unique)} of {len(classes)} classes of {column} are in the source {name} only: "
                    f"{progress.shorten_list(unique)}"
                )
    for warning in warnings:
        progress.log(warning)
        yield warning


def _group_values_by_key(keys: np.ndarray, values: np.ndarray) -> dict[str, set[str]]:
    """Return the labels that occur with each key; a value may consist of several labels."""
    groups: dict[str, set[str]] = {}
    for key, value in sorted(set(zip(keys, values, strict=True))):
        groups.setdefault(key, set()).update(value.split(LABEL_SEPARATOR))
    return groups
