"""Sample data: letters and words of several scripts, drawn with the Noto fonts of a Debian package."""

import functools
import math
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.samples.digit_words import digit_words
from tfx_finetune.datasets.sources.in_memory import InMemorySource, convert_to_text, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source


class Script(NamedTuple):
    """Script and its fonts.

    Attributes:
        first, last: Code points of the first and the last letter.
        languages: Languages whose words are drawn.
        families: Font families of the styles sans and serif.
    """

    first: int
    last: int
    languages: tuple[str, ...]
    families: tuple[str, str]


_SCRIPTS = {
    "Arabic": Script(0x0627, 0x064A, ("ar", "fa"), ("NotoSansArabic", "NotoNaskhArabic")),
    "Armenian": Script(0x0561, 0x0586, ("hy",), ("NotoSansArmenian", "NotoSerifArmenian")),
    "Bengali": Script(0x0995, 0x09B9, (), ("NotoSansBengali", "NotoSerifBengali")),
    "Cyrillic": Script(0x0430, 0x044F, ("ru", "bg", "uk"), ("NotoSans", "NotoSerif")),
    "Devanagari": Script(0x0915, 0x0939, ("hi",), ("NotoSansDevanagari", "NotoSerifDevanagari")),
    "Georgian": Script(0x10D0, 0x10F0, ("ka",), ("NotoSansGeorgian", "NotoSerifGeorgian")),
    "Greek": Script(0x03B1, 0x03C9, ("el",), ("NotoSans", "NotoSerif")),
    "Hebrew": Script(0x05D0, 0x05EA, ("he",), ("NotoSansHebrew", "NotoSerifHebrew")),
    "Latin": Script(0x0061, 0x007A, ("en", "de", "fr", "fi"), ("NotoSans", "NotoSerif")),
    "Tamil": Script(0x0B95, 0x0BB9, ("ta",), ("NotoSansTamil", "NotoSerifTamil")),
    "Thai": Script(0x0E01, 0x0E2E, ("th",), ("NotoSansThai", "NotoSerifThai")),
}
_STYLES, _WEIGHTS = ("sans", "serif"), ("Regular", "Bold")
_SUPERSAMPLING = 2

LabeledText = tuple[str, str]
"""Text to draw, label."""


@SOURCES.register
def scripts(
    kind: Literal["letters", "words"] = "letters",
    names: tuple[str, ...] = (),
    size: int = 48,
    repeats: int = 6,
    test: Literal["", "sans", "serif"] = "serif",
) -> Source:
    """Draw letters or number words of the digits (see `digit_words`), black on white, in four fonts per script.

    Texts are rotated, moved and scaled a little. The label is the letter or the digit; the column `script` is its
    script, the column `source` the style of its font. Similar letters of two scripts are two classes.

    Args:
        kind: `letters` or `words`. Default `letters`.
        names: Names of scripts. Default: all eleven; for words, those that have words.
        size: int >= 16. Side of the images in pixels. Default 48.
        repeats: int >= 1. Number of images of a text in each of the four fonts: two styles, regular and bold.
            Default 6.
        test: Style of the test split; the other style is the training split. Empty: no splits. Default `serif`.

    Raises:
        UserError: If an option is out of range, or the fonts cannot be downloaded or drawn.
    """
    valid_names = [name for name, script in _SCRIPTS.items() if kind == "letters" or script.languages]
    for name in names:
        if name not in valid_names:
            hint = did_you_mean(name, valid_names)
            raise UserError(f"scripts() has no {kind} of the script", got=name, expected=valid_names, hint=hint)
    if size < 16 or repeats < 1:
        got, expected = f"size={size}, repeats={repeats}", "size of 16 or more, repeats of 1 or more"
        raise UserError("An option of scripts() is out of range", got=got, expected=expected)
    if not features.check("raqm"):
        hint = "install libfribidi0 with apt-get, which Pillow's wheels load"
        raise UserError("Pillow cannot draw Arabic or Indic scripts without raqm and fribidi", hint=hint)
    folder = assets.fetch("noto-fonts")
    texts = _list_letters(names or valid_names) if kind == "letters" else _list_words(names or valid_names)
    rows = [
        row | {"split": "all" if not test else "test" if style == test else "train"}
        for style in _STYLES
        for name, labeled_texts in texts.items()
        for row in _make_rows(folder, labeled_texts, name, style, size, repeats)
    ]
    parts = group_columns_by_split(rows)
    for columns in parts.values():
        columns["image"] = np.stack(columns["image"])
    return InMemorySource(f"scripts_{kind}", (), (), parts)


def _make_rows(
    folder: Path, labeled_texts: list[LabeledText], name: str, style: str, size: int, repeats: int
) -> Iterator[dict]:
    """Yield the samples of a script in one style."""
    family = _SCRIPTS[name].families[_STYLES.index(style)]
    for weight in _WEIGHTS:
        path = folder / f"{family}-{weight}.ttf"
        for text, label in labeled_texts:
            for number in range(repeats):
                file = f"{name}/{text}/{family}-{weight}/{number}"
                image = _draw_text(text, path, size, zlib.crc32(file.encode()))
                yield {"image": image, "label": label, "script": name, "source": style, "file": file}


def _list_letters(names: Sequence[str]) -> dict[str, list[LabeledText]]:
    """Return the letters of each script."""
    ranges = {name: range(_SCRIPTS[name].first, _SCRIPTS[name].last + 1) for name in names}
    return {name: [(chr(code), chr(code)) for code in codes if _is_letter(chr(code))] for name, codes in ranges.items()}


def _is_letter(character: str) -> bool:
    # Letters of other languages within the range have a Unicode name such as "... WITH DOT ABOVE".
    return unicodedata.category(character) in ("Ll", "Lo") and " WITH " not in unicodedata.name(character)


def _list_words(names: Sequence[str]) -> dict[str, list[LabeledText]]:
    """Return the number words of the languages of each script."""
    script_of_language = {language: name for name in names for language in _SCRIPTS[name].languages}
    words: dict[str, list[LabeledText]] = {name: [] for name in names}
    for sample in digit_words(languages=tuple(script_of_language)).read("all").as_numpy_iterator():
        text, label, language = (convert_to_text(sample[column]) for column in ("text", "label", "language"))
        words[script_of_language[language]].append((text, label))
    return words


@functools.lru_cache(maxsize=4096)
def _load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.RAQM)


def _draw_text(text: str, font_path: Path, size: int, seed: int) -> np.ndarray:
    """Draw a text in a gray image (size, size, 1), at most two thirds of its height and nine tenths of its width."""
    rng, side = np.random.default_rng(seed), _SUPERSAMPLING * size
    font = _load_font(font_path, side // 2)
    left, top, right, bottom = font.getbbox(text)
    scale = min(0.9 * side / max(right - left, 1), 0.66 * side / max(bottom - top, 1)) * rng.uniform(0.8, 1.0)
    font = _load_font(font_path, max(int(side // 2 * scale), 4))
    left, top, right, bottom = font.getbbox(text)
    max_shifts = [(side - extent) / 4 for extent in (right - left, bottom - top)]
    x, y = (rng.uniform(-1, 1) * max(max_shift, 0) for max_shift in max_shifts)
    image = Image.new("L", (side, side), 255)
    position = ((side - right - left) / 2 + x, (side - bottom - top) / 2 + y)
    ImageDraw.Draw(image).text(position, text, 0, font)
    rotated = image.rotate(math.degrees(rng.normal(0, 0.06)), Image.Resampling.BILINEAR, fillcolor=255)
    return np.asarray(rotated.resize((size, size), Image.Resampling.BOX))[..., None]
