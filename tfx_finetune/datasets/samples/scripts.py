"""Letters and words of several scripts, drawn with the Noto fonts of the Debian package fonts-noto-core."""

import functools
import math
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.samples.digit_words import digit_words
from tfx_finetune.datasets.sources.in_memory import InMemorySource, convert_to_text
from tfx_finetune.types.components import SOURCES, Source

# Of each script: its first and last letter, the languages whose words it writes, and the two styles of its fonts.
_SCRIPTS: dict[str, tuple[int, int, tuple[str, ...], tuple[str, str]]] = {
    "Arabic": (0x0627, 0x064A, ("ar", "fa"), ("NotoSansArabic", "NotoNaskhArabic")),
    "Armenian": (0x0561, 0x0586, ("hy",), ("NotoSansArmenian", "NotoSerifArmenian")),
    "Bengali": (0x0995, 0x09B9, (), ("NotoSansBengali", "NotoSerifBengali")),
    "Cyrillic": (0x0430, 0x044F, ("ru", "bg", "uk"), ("NotoSans", "NotoSerif")),
    "Devanagari": (0x0915, 0x0939, ("hi",), ("NotoSansDevanagari", "NotoSerifDevanagari")),
    "Georgian": (0x10D0, 0x10F0, ("ka",), ("NotoSansGeorgian", "NotoSerifGeorgian")),
    "Greek": (0x03B1, 0x03C9, ("el",), ("NotoSans", "NotoSerif")),
    "Hebrew": (0x05D0, 0x05EA, ("he",), ("NotoSansHebrew", "NotoSerifHebrew")),
    "Latin": (0x0061, 0x007A, ("en", "de", "fr", "fi"), ("NotoSans", "NotoSerif")),
    "Tamil": (0x0B95, 0x0BB9, ("ta",), ("NotoSansTamil", "NotoSerifTamil")),
    "Thai": (0x0E01, 0x0E2E, ("th",), ("NotoSansThai", "NotoSerifThai")),
}
_STYLES, _WEIGHTS = ("sans", "serif"), ("Regular", "Bold")
_SUPERSAMPLING = 2

LabeledText = tuple[str, str]
"""What is drawn, and its label."""


@SOURCES.register
def scripts(
    kind: Literal["letters", "words"] = "letters",
    names: tuple[str, ...] = (),
    size: int = 48,
    repeats: int = 6,
    test: Literal["", "sans", "serif"] = "serif",
) -> Source:
    """Letters, or the digits in words (of `digit_words()`), in black on white, each a little turned, moved and resized.

    The label is the letter, or the digit; `script` says how it is written, `source` in which style. Letters that look
    alike in two scripts are two classes.

    Args:
        kind: What is drawn.
        names: Scripts; by default all eleven, of words those that have some.
        size: Side of the pictures in pixels, 16 or more.
        each: Pictures of a letter or word in each font, 1 or more; there are four: two styles, regular and bold.
        test: The style to test on, the other one being the training part; empty to leave the split to the run.

    Raises:
        UserError: An option is out of range, or the fonts cannot be had or drawn.
    """
    known = [name for name, (_, _, languages, _) in _SCRIPTS.items() if kind == "letters" or languages]
    if unknown := [name for name in names if name not in known]:
        todo = did_you_mean(unknown[0], known)
        raise UserError(f"no {kind} of such a script", got=unknown[0], expected=known, hint=todo)
    if size < 16 or repeats < 1:
        received = f"size={size}, each={repeats}"
        raise UserError("scripts is out of range", got=received, expected="size from 16, each from 1")
    if not features.check("raqm"):
        todo = "apt-get install libfribidi0, which Pillow's wheels look for"
        raise UserError(
            "this Pillow joins no letters of Arabic or Indic scripts, as it lacks raqm or fribidi", hint=todo
        )
    folder = assets.fetch("noto-fonts")
    texts = _list_letters(names or known) if kind == "letters" else _list_words(names or known)
    parts: dict[str, dict[str, list]] = {}
    for style in _STYLES:
        part = "all" if not test else "test" if style == test else "train"
        columns = parts.setdefault(part, {})
        for name, drawn in texts.items():
            for row in _make_rows(folder, drawn, name, style, size, repeats):
                for column, value in row.items():
                    columns.setdefault(column, []).append(value)
    ordered = {part: parts[part] for part in ("train", "test", "all") if part in parts}
    return InMemorySource(
        f"scripts_{kind}", (), (), {part: _stack_images(columns) for part, columns in ordered.items()}
    )


def _stack_images(columns: dict[str, list]) -> dict[str, object]:
    return columns | {"image": np.stack(columns["image"])}


def _make_rows(
    folder: Path, labeled_texts: list[LabeledText], name: str, style: str, size: int, repeats: int
) -> Iterator[dict]:
    """The samples of a script in one style."""
    family = _SCRIPTS[name][3][_STYLES.index(style)]
    for weight in _WEIGHTS:
        path = folder / f"{family}-{weight}.ttf"
        for text, label in labeled_texts:
            for number in range(repeats):
                file = f"{name}/{text}/{family}-{weight}/{number}"
                picture = _draw_text(text, path, size, zlib.crc32(file.encode()))
                yield {"image": picture, "label": label, "script": name, "source": style, "file": file}


def _list_letters(names: Sequence[str]) -> dict[str, list[LabeledText]]:
    """The letters of each script."""
    ranges = {name: range(_SCRIPTS[name][0], _SCRIPTS[name][1] + 1) for name in names}
    return {name: [(chr(code), chr(code)) for code in codes if _is_letter(chr(code))] for name, codes in ranges.items()}


def _is_letter(c: str) -> bool:
    # Letters of other languages that stand between are those WITH something.
    return unicodedata.category(c) in ("Ll", "Lo") and " WITH " not in unicodedata.name(c)


def _list_words(names: Sequence[str]) -> dict[str, list[LabeledText]]:
    """The digits in words, of the languages that each script writes."""
    wanted = {language: name for name in names for language in _SCRIPTS[name][2]}
    found: dict[str, list[LabeledText]] = {name: [] for name in names}
    for row in digit_words(languages=tuple(wanted)).read("all").as_numpy_iterator():
        found[wanted[convert_to_text(row["language"])]].append(
            (convert_to_text(row["text"]), convert_to_text(row["label"]))
        )
    return found


@functools.lru_cache(maxsize=4096)
def _load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.RAQM)


def _draw_text(text: str, font_path: Path, size: int, seed: int) -> np.ndarray:
    """A text in a grey picture (size, size, 1), no higher than two thirds of it and no wider than nine tenths."""
    rng, side = np.random.default_rng(seed), _SUPERSAMPLING * size
    letters = _load_font(font_path, side // 2)
    left, top, right, bottom = letters.getbbox(text)
    scale = min(0.9 * side / max(right - left, 1), 0.66 * side / max(bottom - top, 1)) * rng.uniform(0.8, 1.0)
    letters = _load_font(font_path, max(int(side // 2 * scale), 4))
    left, top, right, bottom = letters.getbbox(text)
    room = [(side - extent) / 4 for extent in (right - left, bottom - top)]
    x, y = (rng.uniform(-1, 1) * max(space, 0) for space in room)
    picture = Image.new("L", (side, side), 255)
    place = ((side - right - left) / 2 + x, (side - bottom - top) / 2 + y)
    ImageDraw.Draw(picture).text(place, text, 0, letters)
    turned = picture.rotate(math.degrees(rng.normal(0, 0.06)), Image.Resampling.BILINEAR, fillcolor=255)
    return np.asarray(turned.resize((size, size), Image.Resampling.BOX))[..., None]
