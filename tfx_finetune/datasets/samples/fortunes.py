"""Sample data: fortune cookies, short texts in twelve languages, from the Debian packages fortunes, fortunes-de, ..."""

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
# Most packages have their own folder; these share one with other packages.
_FILES: dict[str, tuple[str, ...]] = {
    "br": ("brasil",),
    "en": (
        *("art", "computers", "cookie", "debian", "definitions", "disclaimer", "drugs", "education", "ethnic", "food"),
        *("goedel", "humorists", "kids", "knghtbrd", "law", "linux"),
        *("linuxcookie", "love", "magic", "medicine", "men-women"),
        *("miscellaneous", "news", "paradoxum", "people", "perl", "pets", "platitudes", "politics", "pratchett"),
        *("science", "songs-poems", "sports", "startrek", "tao", "translate-me", "wisdom", "work", "zippy"),
    ),
    "zh": ("chinese", "song100", "tang300"),
}
# Slovak texts in the Czech package, and a source file of the Spanish package.
_EXCLUDED_FILES = ("klasik-sk", "varios.fortunes-pre")


@SOURCES.register
def fortunes(
    label: Literal["language", "topic"] = "language",
    languages: tuple[str, ...] = (),
    min_samples: int = 50,
    limit: int = 0,
) -> Source:
    """Read about 100,000 jokes, proverbs and quotations, labeled by language or by topic.

    Most texts have one to three sentences. Installed packages are used; others are downloaded into the cache without
    root. Texts that differ only in case, white space or punctuation are one group, which stays in one split. A file has
    one author or one theme. Some Spanish and German texts lack their accents.

    Args:
        label: Class of a text: its language, or its topic, which is the name of its file. Default `language`.
        languages: Languages of bg, br (Brazilian Portuguese), cs, de, en, eo, es, ga, it, pl, ru and zh. Default: all
            for `language`, English for `topic`.
        min_samples: Minimum number of texts of a class; smaller classes are left out. Default 50.
        limit: int >= 0. Maximum number of texts of a class, evenly spaced in its files. Default 0: no limit.

    Raises:
        UserError: If a language does not exist, or its package cannot be downloaded.
    """
    languages = languages or (("en",) if label == "topic" else _LANGUAGES)
    for language in languages:
        if language not in _LANGUAGES:
            hint = did_you_mean(language, _LANGUAGES)
            raise UserError("fortunes() has no such language", got=language, expected=_LANGUAGES, hint=hint)
    records = [record for language in languages for record in _make_records(language)]
    counts = Counter(record[label] for record in records)
    if max(counts.values()) < min_samples:
        got, expected = f"min_samples={min_samples}", f"at most {max(counts.values())}"
        raise UserError("No class of fortunes() has so many texts", got=got, expected=expected)
    positions: Counter[str] = Counter()
    rows = []
    for record in records:
        name = record[label]
        position, count = positions[name], counts[name]
        max_count = min(limit or count, count)
        if count >= min_samples and position * max_count // count < (position + 1) * max_count // count:
            rows.append(record | {"label": name})
        positions[name] += 1
    columns = ("text", "label", "file", "group", "language", "topic")
    return InMemorySource("fortunes", (), (), {"all": {column: [row[column] for row in rows] for column in columns}})


def _make_records(language: str) -> Iterator[dict[str, str]]:
    for path in _list_text_files(assets.fetch(f"fortunes-{language}"), language):
        topic = path.name.removesuffix(".fortunes")
        for number, text in enumerate(_read_texts(path), 1):
            names = {"language": language, "topic": topic, "file": f"{language}/{topic}/{number}"}
            yield names | {"text": text, "group": normalize_text(text)}


def _list_text_files(folder: Path, language: str) -> list[Path]:
    if language in _FILES:
        return [folder / name for name in _FILES[language]]
    # Every file has a table of offsets (.dat) and a copy in UTF-8 or a link to it (.u8).
    files = [path for path in folder.joinpath(language).iterdir() if path.is_file()]
    return sorted(path for path in files if path.suffix not in (".dat", ".u8") and path.name not in _EXCLUDED_FILES)


def _read_texts(path: Path) -> Iterator[str]:
    content = path.read_text("utf-8", errors="replace")
    # Some files color titles by escape sequences, others overprint characters by backspaces.
    content = re.sub(r"\x1b(\[[0-9;]*m?)?|.\x08", "", content)
    for text in re.split(r"^%+[ \t]*$", content, flags=re.MULTILINE):
        if normalize_text(text):
            yield text.strip()


def normalize_text(text: str) -> str:
    """Remove case, white space and punctuation from a text, so that near-identical texts are equal.

    Examples:
        >>> normalize_text("It's a Test!")
        'itsatest'
    """
    return "".join(character for character in unicodedata.normalize("NFKC", text).casefold() if character.isalnum())
