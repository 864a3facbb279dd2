"""Names of Tux Paint's stamps in several languages as a table, each object in one split in all languages."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES

# A language excludes its categories with fewer names.
MIN_NAMES = 8


def make_rows(languages: Sequence[str], seed: int, max_names: int = 0) -> list[dict[str, str]]:
    """Return rows of `text`, `label` (the category), `language`, `group` (the object) and `split`.

    Args:
        languages: Language codes of the package.
        seed: Seed of the split: 25 % of the objects of each category for the test, 10 % for validation.
        max_names: Largest number of names per language; 0 for all.
    """
    source = SOURCES.build(Spec("tux_stamps", (), {"modalities": ("text",), "languages": tuple(languages)}))
    columns = source.parts["all"]
    names = [column for column in ("text", "label", "language", "group") if column in columns]
    samples = [dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True)]
    rng = np.random.default_rng(seed)
    splits: dict[str, str] = {}
    label_groups = sorted({(row["label"], row["group"]) for row in samples})
    order = [label_groups[index] for index in rng.permutation(len(label_groups))]
    group_counts: Counter[str] = Counter()
    for label, group in order:
        position = group_counts[label] % 20
        splits.setdefault(group, "test" if position % 4 == 1 else "val" if position in (3, 10) else "train")
        group_counts[label] += 1
    name_counts: Counter[str] = Counter()
    selected = []
    for row in samples:
        name_counts[row["language"]] += 1
        if not max_names or name_counts[row["language"]] <= max_names:
            selected.append(row | {"split": splits[row["group"]]})
    counts = Counter((row["language"], row["label"]) for row in selected)
    return [row for row in selected if counts[row["language"], row["label"]] >= MIN_NAMES]


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write rows to a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
