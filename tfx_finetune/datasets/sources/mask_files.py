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
from tfx_finetune.datasets.sources.frames import Frame, has_same_aspect_ratio
from tfx_finetune.datasets.sources.in_memory import format_path
from tfx_finetune.datasets.sources.mask_cache import cache_mask
from tfx_finetune.datasets.sources.mask_colors import Color
from tfx_finetune.ops.annotations import AnnotationIssues
from tfx_finetune.ops.exif import TRANSPOSED_ORIENTATIONS, read_image_header
from tfx_finetune.types.localization import BACKGROUND, IGNORE_INDEX

MaskPair = tuple[str, Path, Path]
"""The split, empty where there is none, the picture and its mask."""

_MAX_CLASSES = 64


class MaskInfo(NamedTuple):
    """What a mask's file has.

    used: Its values, or the places of its colours.
    plain: Whether its grey values or palette indices are these values, so that the file can be used as it is.
    orientation: The EXIF orientation of the picture that the mask does not have, else 1.
    findings: What a person should know of it.
    why: Why it cannot be used; empty where it can.
    """

    values: frozenset[int] = frozenset()
    is_index_mask: bool = True
    orientation: int = 1
    findings: tuple[str, ...] = ()
    error: str = ""


def read_masks(
    pairs: Sequence[MaskPair], color_map: Mapping[str, Color | None], issues: AnnotationIssues
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
    colours = [colour for colour in color_map.values() if colour]
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("masks", len(pairs)) as advance:
        looks = []
        for (_, picture, mask), look in zip(
            pairs, pool.map(lambda pair: _inspect_mask(pair[1], pair[2], colours), pairs), strict=True
        ):
            looks.append(look)
            for finding in (*look.findings, *filter(None, [look.error])):
                issues.count(finding, format_path(str(picture if look.error else mask)))
            advance()
    used = frozenset().union(*(look.values for look in looks))
    # Masks of one thing are often black and white.
    both = len(color_map or "12") == 2 and used <= {0, IGNORE_INDEX} and IGNORE_INDEX in used
    labels = tuple(color_map) or ((BACKGROUND, "foreground") if both else _make_numbered_labels(used))
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(labels)] = np.arange(len(labels))
    if both:
        issues.count(f"masks in black and white, white taken for {labels[1]}", "all", len(pairs))
        table[IGNORE_INDEX] = 1
    return labels, list(_make_records(pairs, looks, table, colours, issues))


def _make_records(
    pairs: Sequence[MaskPair],
    infos: Sequence[MaskInfo],
    value_table: np.ndarray,
    colors: list[Color],
    issues: AnnotationIssues,
) -> Iterator[dict[str, str]]:
    for (split, picture, mask), look in zip(pairs, infos, strict=True):
        if look.error:
            continue
        changed = [value for value in look.values if value_table[value] != value]
        if changed and value_table[IGNORE_INDEX] == IGNORE_INDEX:
            issues.count("masks with values of no class, untold there", format_path(str(mask)))
        place = str(mask)
        if changed or not look.is_index_mask or look.orientation != 1:
            place = _rewrite_mask(mask, look.orientation, value_table, colors)
        record = {"image": str(picture), "mask": place, "file": format_path(str(picture))}
        yield record | ({"split": split} if split else {})


def _rewrite_mask(mask: Path, orientation: int, value_table: np.ndarray, colors: list[Color]) -> str:
    raw = mask.read_bytes()
    made_of = [hashlib.sha256(raw).hexdigest(), orientation, value_table.tolist(), colors]
    frame = Frame(1, 1, orientation)
    return cache_mask(
        made_of, lambda: frame.turn_upright(Image.fromarray(value_table[_read_mask_values(raw, colors)[0]]))
    )


def _inspect_mask(picture: Path, mask: Path, colors: list[Color]) -> MaskInfo:
    try:
        values, plain, findings = _read_mask_values(mask.read_bytes(), colors)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return MaskInfo(error="pictures whose mask cannot be read, left out")
    used = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    size, found = values.shape[::-1], read_image_header(picture)
    # A picture that cannot be read is found by the survey.
    if found is None or size == found[:2]:
        return MaskInfo(used, plain, 1, findings)
    if has_same_aspect_ratio(size, found[:2]):
        return MaskInfo(used, plain, 1, (*findings, "masks of another size than their picture, scaled"))
    if found.orientation in TRANSPOSED_ORIENTATIONS and has_same_aspect_ratio(size, (found.height, found.width)):
        return MaskInfo(used, plain, found.orientation, (*findings, "masks of pictures that are shown turned, turned"))
    return MaskInfo(error="pictures of another shape than their mask, left out")


def _read_mask_values(raw: bytes, colors: list[Color]) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """The values of a mask's file, uint8 (height, width); whether they are those that the file has; findings."""
    with Image.open(io.BytesIO(raw)) as opened:
        opened.load()
    if opened.mode == "1":
        return np.array(opened, np.uint8), False, ()
    if opened.mode == "P" and not _is_color_coded(opened, colors):
        return np.array(opened), True, ()
    if opened.mode == "L":
        # Pillow spreads the values of files of two and four bits over the whole range.
        depth = raw[24] if raw[12:16] == b"IHDR" else 8
        return np.array(opened) // {2: 85, 4: 17}.get(depth, 1), depth == 8, ()
    if opened.mode.startswith("I"):
        wide = np.array(opened)
        return np.where(wide > IGNORE_INDEX, IGNORE_INDEX, wide).astype(np.uint8), False, ()
    pixels = np.array(opened.convert("RGB")).astype(np.int32)
    if (pixels == pixels[..., :1]).all() and not (colors and any(len(set(colour)) > 1 for colour in colors)):
        return pixels[..., 0].astype(np.uint8), False, ()
    if not colors:
        todo = "write a labelmap.txt with a line `name red green blue` for each class"
        raise UserError("masks have colours, and nobody says which class each is", got=opened.mode, hint=todo)
    return _map_colors_to_indices(pixels, colors)


def _map_colors_to_indices(pixels: np.ndarray, colors: list[Color]) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    codes = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = np.array([(red << 16) + (green << 8) + blue for red, green, blue in colors], np.int32)
    order = np.argsort(known)
    near = order[np.minimum(np.searchsorted(known[order], codes), len(known) - 1)]
    found = known[near] == codes
    findings = () if found.all() else ("masks with colours of no class, untold there",)
    return np.where(found, near, IGNORE_INDEX).astype(np.uint8), False, findings


def _is_color_coded(mask: Image.Image, colors: list[Color]) -> bool:
    """Whether the colours of a palette say the classes, and its indices do not."""
    palette = np.reshape(mask.getpalette("RGB") or [], (-1, 3)).tolist()
    used = [index for index in np.unique(np.array(mask)).tolist() if index < len(palette)]
    if all(index == IGNORE_INDEX or (index < len(colors) and palette[index] == list(colors[index])) for index in used):
        return False
    return all(tuple(palette[index]) in colors for index in used)


def _make_numbered_labels(used_values: frozenset[int]) -> tuple[str, ...]:
    values = used_values - {IGNORE_INDEX}
    if len(values) > _MAX_CLASSES:
        todo = "are these masks? write a classes.txt with a line for each class"
        raise UserError("so many values are no classes", got=len(values), expected=f"up to {_MAX_CLASSES}", hint=todo)
    return tuple(str(value) for value in range(max(values, default=0) + 1))
