"""Names of Tux Paint's stamps in several languages as a table, each thing in one split in all languages."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES

# Categories of fewer names in a language are left out of it.
LEAST = 8


def rows(languages: Sequence[str], seed: int, most: int = 0) -> list[dict[str, str]]:
    """Return rows of `text`, `label` (the category), `language`, `group` (the thing) and `split`.

    Args:
        languages: Language codes of the package.
        seed: Seed of the split: 25 % of the things of each category for the test, 10 % for validation.
        most: Largest number of names per language; 0 for all.
    """
    source = SOURCES.build(Spec("tux_stamps", (), {"modalities": ("text",), "languages": tuple(languages)}))
    columns = source.parts["all"]
    names = [column for column in ("text", "label", "language", "group") if column in columns]
    found = [dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True)]
    rng = np.random.default_rng(seed)
    sides: dict[str, str] = {}
    things = sorted({(row["label"], row["group"]) for row in found})
    order = [things[at] for at in rng.permutation(len(things))]
    seen: Counter[str] = Counter()
    for label, group in order:
        share = seen[label] % 20
        sides.setdefault(group, "test" if share % 4 == 1 else "val" if share in (3, 10) else "train")
        seen[label] += 1
    left: Counter[str] = Counter()
    kept = []
    for row in found:
        left[row["language"]] += 1
        if not most or left[row["language"]] <= most:
            kept.append(row | {"split": sides[row["group"]]})
    counts = Counter((row["language"], row["label"]) for row in kept)
    return [row for row in kept if counts[row["language"], row["label"]] >= LEAST]


def write(path: Path, found: Sequence[dict[str, str]]) -> Path:
    """Write rows to a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path
