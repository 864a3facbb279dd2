"""Masks that lie in files of their own, beside the pictures that they are of."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.frames import Frame, alike
from tfx_finetune.datasets.sources.in_memory import readable
from tfx_finetune.datasets.sources.mask_cache import kept
from tfx_finetune.datasets.sources.mask_colors import Colour
from tfx_finetune.ops.annotations import Care
from tfx_finetune.ops.exif import TURNED, header
from tfx_finetune.types.localization import BACKGROUND, UNTOLD

Pair = tuple[str, Path, Path]
"""The split, empty where there is none, the picture and its mask."""

_MOST = 64


class Look(NamedTuple):
    """What a mask's file has.

    used: Its values, or the places of its colours.
    plain: Whether its grey values or palette indices are these values, so that the file can be used as it is.
    orientation: The EXIF orientation of the picture that the mask does not have, else 1.
    findings: What a person should know of it.
    why: Why it cannot be used; empty where it can.
    """

    used: frozenset[int] = frozenset()
    plain: bool = True
    orientation: int = 1
    findings: tuple[str, ...] = ()
    why: str = ""


def masked(
    pairs: Sequence[Pair], known: Mapping[str, Colour | None], care: Care
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Looks at every mask, and writes those anew whose values are not places of classes.

    Args:
        pairs: Pictures and masks.
        known: The classes, with their colours in masks that have some; empty where nobody says them.
        care: What cannot be used is counted here.

    Returns:
        The classes, by default named by their values, and the samples.

    Raises:
        UserError: Masks have colours, and nobody says which; or so many values that they are no classes.
    """
    colours = [colour for colour in known.values() if colour]
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("masks", len(pairs)) as advance:
        looks = []
        for (_, picture, mask), look in zip(
            pairs, pool.map(lambda pair: _look(pair[1], pair[2], colours), pairs), strict=True
        ):
            looks.append(look)
            for finding in (*look.findings, *filter(None, [look.why])):
                care.count(finding, readable(str(picture if look.why else mask)))
            advance()
    used = frozenset().union(*(look.used for look in looks))
    # Masks of one thing are often black and white.
    both = len(known or "12") == 2 and used <= {0, UNTOLD} and UNTOLD in used
    labels = tuple(known) or ((BACKGROUND, "foreground") if both else _numbered(used))
    table = np.full(256, UNTOLD, np.uint8)
    table[: len(labels)] = np.arange(len(labels))
    if both:
        care.count(f"masks in black and white, white taken for {labels[1]}", "all", len(pairs))
        table[UNTOLD] = 1
    return labels, list(_records(pairs, looks, table, colours, care))


def _records(
    pairs: Sequence[Pair], looks: Sequence[Look], table: np.ndarray, colours: list[Colour], care: Care
) -> Iterator[dict[str, str]]:
    for (split, picture, mask), look in zip(pairs, looks, strict=True):
        if look.why:
            continue
        changed = [value for value in look.used if table[value] != value]
        if changed and table[UNTOLD] == UNTOLD:
            care.count("masks with values of no class, untold there", readable(str(mask)))
        place = str(mask)
        if changed or not look.plain or look.orientation != 1:
            place = _anew(mask, look.orientation, table, colours)
        record = {"image": str(picture), "mask": place, "file": readable(str(picture))}
        yield record | ({"split": split} if split else {})


def _anew(mask: Path, orientation: int, table: np.ndarray, colours: list[Colour]) -> str:
    raw = mask.read_bytes()
    made_of = [hashlib.sha256(raw).hexdigest(), orientation, table.tolist(), colours]
    frame = Frame(1, 1, orientation)
    return kept(made_of, lambda: frame.upright(Image.fromarray(table[_values(raw, colours)[0]])))


def _look(picture: Path, mask: Path, colours: list[Colour]) -> Look:
    try:
        values, plain, findings = _values(mask.read_bytes(), colours)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Look(why="pictures whose mask cannot be read, left out")
    used = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    size, found = values.shape[::-1], header(picture)
    # A picture that cannot be read is found by the survey.
    if found is None or size == found[:2]:
        return Look(used, plain, 1, findings)
    if alike(size, found[:2]):
        return Look(used, plain, 1, (*findings, "masks of another size than their picture, scaled"))
    if found.orientation in TURNED and alike(size, (found.height, found.width)):
        return Look(used, plain, found.orientation, (*findings, "masks of pictures that are shown turned, turned"))
    return Look(why="pictures of another shape than their mask, left out")


def _values(raw: bytes, colours: list[Colour]) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """The values of a mask's file, uint8 (height, width); whether they are those that the file has; findings."""
    with Image.open(io.BytesIO(raw)) as opened:
        opened.load()
    if opened.mode == "1":
        return np.array(opened, np.uint8), False, ()
    if opened.mode == "P" and not _by_palette(opened, colours):
        return np.array(opened), True, ()
    if opened.mode == "L":
        # Pillow spreads the values of files of two and four bits over the whole range.
        depth = raw[24] if raw[12:16] == b"IHDR" else 8
        return np.array(opened) // {2: 85, 4: 17}.get(depth, 1), depth == 8, ()
    if opened.mode.startswith("I"):
        wide = np.array(opened)
        return np.where(wide > UNTOLD, UNTOLD, wide).astype(np.uint8), False, ()
    pixels = np.array(opened.convert("RGB")).astype(np.int32)
    if (pixels == pixels[..., :1]).all() and not (colours and any(len(set(colour)) > 1 for colour in colours)):
        return pixels[..., 0].astype(np.uint8), False, ()
    if not colours:
        todo = "write a labelmap.txt with a line `name red green blue` for each class"
        raise UserError("masks have colours, and nobody says which class each is", received=opened.mode, todo=todo)
    return _coloured(pixels, colours)


def _coloured(pixels: np.ndarray, colours: list[Colour]) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    codes = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = np.array([(red << 16) + (green << 8) + blue for red, green, blue in colours], np.int32)
    order = np.argsort(known)
    near = order[np.minimum(np.searchsorted(known[order], codes), len(known) - 1)]
    found = known[near] == codes
    findings = () if found.all() else ("masks with colours of no class, untold there",)
    return np.where(found, near, UNTOLD).astype(np.uint8), False, findings


def _by_palette(mask: Image.Image, colours: list[Colour]) -> bool:
    """Whether the colours of a palette say the classes, and its indices do not."""
    palette = np.reshape(mask.getpalette("RGB") or [], (-1, 3)).tolist()
    used = [index for index in np.unique(np.array(mask)).tolist() if index < len(palette)]
    if all(index == UNTOLD or (index < len(colours) and palette[index] == list(colours[index])) for index in used):
        return False
    return all(tuple(palette[index]) in colours for index in used)


def _numbered(used: frozenset[int]) -> tuple[str, ...]:
    values = used - {UNTOLD}
    if len(values) > _MOST:
        todo = "are these masks? write a classes.txt with a line for each class"
        raise UserError("so many values are no classes", received=len(values), allowed=f"up to {_MOST}", todo=todo)
    return tuple(str(value) for value in range(max(values, default=0) + 1))
