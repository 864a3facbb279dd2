"""Fortune cookies: short texts in twelve languages, as the Debian packages fortunes, fortunes-de, ... bring them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

_LANGUAGES = ("bg", "br", "cs", "de", "en", "eo", "es", "ga", "it", "pl", "ru", "zh")
# Most packages have a folder of their own; these share one with other packages.
_FILES: dict[str, tuple[str, ...]] = {
    "br": ("brasil",),
    "en": (
        *("art", "computers", "cookie", "debian", "definitions", "disclaimer", "drugs", "education", "ethnic", "food"),
        *(
            "goedel",
            "humorists",
            "kids",
            "knghtbrd",
            "law",
            "linux",
            "linuxcookie",
            "love",
            "magic",
            "medicine",
            "men-women",
        ),
        *("miscellaneous", "news", "paradoxum", "people", "perl", "pets", "platitudes", "politics", "pratchett"),
        *("science", "songs-poems", "sports", "startrek", "tao", "translate-me", "wisdom", "work", "zippy"),
    ),
    "zh": ("chinese", "song100", "tang300"),
}
# Slovak among the Czech, and a file that the Spanish package is made from.
_EXCLUDED_FILES = ("klasik-sk", "varios.fortunes-pre")


@SOURCES.register
def fortunes(
    label: Literal["language", "topic"] = "language",
    languages: tuple[str, ...] = (),
    min_samples: int = 50,
    limit: int = 0,
) -> Source:
    """About 100,000 jokes, proverbs and quotations, most of one to three sentences, by language or by topic.

    The packages are used where they are installed, else downloaded into the cache without root. Texts that differ
    in case, blanks or punctuation alone are one group, so that they stand on one side of a split. Files are by one
    author or of one theme, and a language's orthography is that of its authors: some Spanish and German texts lack
    their accents.

    Args:
        label: The class: the text's language, or its topic, which is the name of its file.
        languages: Of bg, br (Portuguese of Brazil), cs, de, en, eo, es, ga, it, pl, ru and zh; by default all for
            the language, and English for the topic.
        min_samples: Classes with fewer texts are left out.
        limit: Most texts of a class, evenly spaced in its files; 0 takes all.

    Raises:
        UserError: There is no such language, or its package cannot be had.
    """
    wanted = languages or (("en",) if label == "topic" else _LANGUAGES)
    for language in wanted:
        if language not in _LANGUAGES:
            todo = did_you_mean(language, _LANGUAGES)
            raise UserError("fortunes has no such language", got=language, expected=_LANGUAGES, hint=todo)
    records = [record for language in wanted for record in _make_records(language)]
    counts = Counter(record[label] for record in records)
    if max(counts.values()) < min_samples:
        raise UserError("no class has so many texts", got=min_samples, expected=f"up to {max(counts.values())}")
    seen: Counter[str] = Counter()
    kept = []
    for record in records:
        name = record[label]
        count, most = counts[name], min(limit or counts[name], counts[name])
        if count >= min_samples and seen[name] * most // count < (seen[name] + 1) * most // count:
            kept.append(record | {"label": name})
        seen[name] += 1
    columns = ("text", "label", "file", "group", "language", "topic")
    return InMemorySource(
        "fortunes", (), (), {"all": {column: [record[column] for record in kept] for column in columns}}
    )


def _make_records(language: str) -> Iterator[dict[str, str]]:
    for path in _list_text_files(assets.fetch(f"fortunes-{language}"), language):
        topic = path.name.removesuffix(".fortunes")
        for number, text in enumerate(_read_texts(path), 1):
            named = {"language": language, "topic": topic, "file": f"{language}/{topic}/{number}"}
            yield named | {"text": text, "group": _normalize_text(text)}


def _list_text_files(folder: Path, language: str) -> list[Path]:
    if language in _FILES:
        return [folder / name for name in _FILES[language]]
    # Of each file there is a copy in UTF-8, often a link to it, and a table of offsets.
    found = [path for path in folder.joinpath(language).iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix not in (".dat", ".u8") and path.name not in _EXCLUDED_FILES)


def _read_texts(path: Path) -> Iterator[str]:
    content = path.read_text("utf-8", errors="replace")
    # Some files colour a title, others print over what they printed.
    content = re.sub(r"\x1b(\[[0-9;]*m?)?|.\x08", "", content)
    for text in re.split(r"^%+[ \t]*$", content, flags=re.MULTILINE):
        if _normalize_text(text):
            yield text.strip()


def _normalize_text(text: str) -> str:
    """What texts have in common that differ in case, blanks or punctuation alone."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum())
