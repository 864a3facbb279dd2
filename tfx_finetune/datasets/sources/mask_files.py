"""Mask files and the class lists that explain their values or colors."""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.annotation_frame import has_same_aspect_ratio, rotate_upright
from tfx_finetune.datasets.sources.data_files import format_path
from tfx_finetune.datasets.sources.segmentations import cache_mask
from tfx_finetune.ops.annotations import AnnotationIssues, normalize_class_name
from tfx_finetune.ops.image import TRANSPOSED_ORIENTATIONS, read_image_header
from tfx_finetune.types.localization import BACKGROUND, IGNORE_INDEX

CLASS_FILES = ("labelmap.txt", "classes.txt", "label_colors.txt")

Color = tuple[int, int, int]
MaskPair = tuple[str, Path, Path]
"""Split (empty for none), image file, mask file."""

_MAX_CLASSES = 64


def read_color_map(root: Path, file: str = "") -> dict[str, Color | None]:
    """Read the classes of masks and their colors.

    A line is `name`, `name r g b`, `r g b name`, or `name:r,g,b::` as CVAT writes it. Text after `#` is a comment.

    Args:
        root: Folder of the data, which is searched for a file with a standard name (`classes.txt`, ...).
        file: Path of the file, if it has another name.

    Returns:
        Colors by class, None for classes without one. The order of the classes is that of the values 0, 1, ... of gray
        masks. Empty if there is no file.

    Raises:
        UserError: If `file` does not exist, a line is malformed, or a class or color occurs twice.
    """
    default = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    path = Path(file).expanduser() if file else default
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError("Cannot read the class list of the masks", got=f"{path} ({error})") from None
    color_map: dict[str, Color | None] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        location = f"{path}, line {number}: {text}"
        name, color = _parse_class(text, location)
        if name in color_map or (color and color in color_map.values()):
            raise UserError("A class or color occurs twice", got=location)
        color_map[name] = color
    if len({color is None for color in color_map.values()}) > 1:
        raise UserError("Only some classes have a color", got=path)
    if len(color_map) > 255:
        raise UserError("Too many classes for masks", got=f"{path}: {len(color_map)}", expected="at most 255")
    return color_map


def _parse_class(text: str, location: str) -> tuple[str, Color | None]:
    name, *digits = (text.split(":")[0], *re.findall(r"\d+", text.split(":")[1])) if ":" in text else (text,)
    if ":" not in text:
        words = re.split(r"[\s,]+", text)
        if len(words) > 3 and all(word.isdigit() for word in words[-3:]):
            name, digits = " ".join(words[:-3]), words[-3:]
        elif len(words) > 3 and all(word.isdigit() for word in words[:3]):
            name, digits = " ".join(words[3:]), words[:3]
    color = tuple(map(int, digits))
    if not name.strip() or len(color) not in (0, 3) or max(color, default=0) > 255:
        expected = "`name` or `name red green blue`, with values of 0 to 255"
        raise UserError("Not a class with a color", got=location, expected=expected)
    return normalize_class_name(name), color or None  # type: ignore[return-value]


class MaskValues(NamedTuple):
    """Decoded mask.

    Attributes:
        values: uint8 array (height, width): values of the file, or indices of its colors in the list of colors.
        are_stored: True if the gray values or palette indices of the file are these values, so that the file can be
            used unchanged.
        issues: Issues to report.
    """

    values: np.ndarray
    are_stored: bool
    issues: tuple[str, ...] = ()


class MaskInfo(NamedTuple):
    """Properties of a mask file.

    Attributes:
        values: Values that occur in the mask; see `MaskValues`.
        are_stored: True if the file can be used unchanged; see `MaskValues`.
        orientation: EXIF orientation of the image that is still to be applied to the mask; 1 for none.
        issues: Issues to report.
        error: Issue that makes the mask unusable; empty if the mask can be used.
    """

    values: frozenset[int] = frozenset()
    are_stored: bool = True
    orientation: int = 1
    issues: tuple[str, ...] = ()
    error: str = ""


def read_masks(
    pairs: Sequence[MaskPair], color_map: Mapping[str, Color | None], issues: AnnotationIssues
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Inspect all masks; convert masks whose values are not class indices and write them into the cache.

    Args:
        pairs: Images and masks.
        color_map: Classes and their colors in the masks; empty if they are not known.
        issues: Receives a count for every issue.

    Returns:
        The class names (default: the values), and one record per usable mask.

    Raises:
        UserError: If masks have colors without a color map, or more values than a class list can have.
    """
    colors = [color for color in color_map.values() if color]
    infos = []
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("masks", len(pairs)) as advance:
        results = pool.map(lambda pair: _inspect_mask(pair[1], pair[2], colors), pairs)
        for (_, image, mask), info in zip(pairs, results, strict=True):
            infos.append(info)
            for issue in (*info.issues, *filter(None, [info.error])):
                issues.count(issue, format_path(str(image if info.error else mask)))
            advance()
    used_values = frozenset().union(*(info.values for info in infos))
    # Masks of a single foreground class are often black and white.
    is_black_and_white = len(color_map) in (0, 2) and used_values <= {0, IGNORE_INDEX} and IGNORE_INDEX in used_values
    default_labels = (BACKGROUND, "foreground") if is_black_and_white else None
    labels = tuple(color_map) or default_labels or _make_numbered_labels(used_values)
    class_of_value = np.full(256, IGNORE_INDEX, np.uint8)
    class_of_value[: len(labels)] = np.arange(len(labels))
    if is_black_and_white:
        issues.count(f"black-and-white masks, white read as {labels[1]}", "all", len(pairs))
        class_of_value[IGNORE_INDEX] = 1
    return labels, list(_make_records(pairs, infos, class_of_value, colors, issues))


def _make_records(
    pairs: Sequence[MaskPair],
    infos: Sequence[MaskInfo],
    class_of_value: np.ndarray,
    colors: list[Color],
    issues: AnnotationIssues,
) -> Iterator[dict[str, str]]:
    for (split, image, mask), info in zip(pairs, infos, strict=True):
        if info.error:
            continue
        changed_values = [value for value in info.values if class_of_value[value] != value]
        if changed_values and class_of_value[IGNORE_INDEX] == IGNORE_INDEX:
            issues.count("masks with values of no class, ignored there", format_path(str(mask)))
        path = str(mask)
        if changed_values or not info.are_stored or info.orientation != 1:
            path = _convert_mask(mask, info.orientation, class_of_value, colors)
        yield {"image": str(image), "mask": path, "file": format_path(str(image)), "split": split}


def _convert_mask(mask: Path, orientation: int, class_of_value: np.ndarray, colors: list[Color]) -> str:
    """Write a mask of class indices into the cache and return its path."""
    raw = mask.read_bytes()

    def draw() -> Image.Image:
        return rotate_upright(Image.fromarray(class_of_value[_read_mask_values(raw, colors).values]), orientation)

    return cache_mask([hashlib.sha256(raw).hexdigest(), orientation, class_of_value.tolist(), colors], draw)


def _inspect_mask(image: Path, mask: Path, colors: list[Color]) -> MaskInfo:
    try:
        values, are_stored, issues = _read_mask_values(mask.read_bytes(), colors)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return MaskInfo(error="images with an unreadable mask, left out")
    used_values = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    info = MaskInfo(used_values, are_stored, issues=issues)
    size, header = values.shape[::-1], read_image_header(image)
    # The survey finds images that cannot be read.
    if header is None or size == header[:2]:
        return info
    if has_same_aspect_ratio(size, header[:2]):
        return info._replace(issues=(*issues, "masks of another size than their image, resized"))
    if header.orientation in TRANSPOSED_ORIENTATIONS and has_same_aspect_ratio(size, (header.height, header.width)):
        rotated = "masks without the EXIF rotation of their image, rotated"
        return info._replace(orientation=header.orientation, issues=(*issues, rotated))
    return MaskInfo(error="images whose aspect ratio differs from their mask, left out")


def _read_mask_values(raw: bytes, colors: list[Color]) -> MaskValues:
    with Image.open(io.BytesIO(raw)) as mask:
        mask.load()
    if mask.mode == "1":
        return MaskValues(np.array(mask, np.uint8), False)
    if mask.mode == "P" and not _is_color_coded(mask, colors):
        return MaskValues(np.array(mask), True)
    if mask.mode == "L":
        # Pillow scales the values of PNG files of 2 and 4 bits to 0..255.
        depth = raw[24] if raw[12:16] == b"IHDR" else 8
        return MaskValues(np.array(mask) // {2: 85, 4: 17}.get(depth, 1), depth == 8)
    if mask.mode.startswith("I"):
        values = np.array(mask)
        return MaskValues(np.where(values > IGNORE_INDEX, IGNORE_INDEX, values).astype(np.uint8), False)
    pixels = np.array(mask.convert("RGB")).astype(np.int32)
    if (pixels == pixels[..., :1]).all() and not (colors and any(len(set(color)) > 1 for color in colors)):
        return MaskValues(pixels[..., 0].astype(np.uint8), False)
    if not colors:
        hint = "write a labelmap.txt with one line `name red green blue` per class"
        raise UserError("Masks have colors, but no file assigns them to classes", got=mask.mode, hint=hint)
    return _map_colors_to_indices(pixels, colors)


def _map_colors_to_indices(pixels: np.ndarray, colors: list[Color]) -> MaskValues:
    codes = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
    color_codes = np.array([(red << 16) + (green << 8) + blue for red, green, blue in colors], np.int32)
    order = np.argsort(color_codes)
    indices = order[np.minimum(np.searchsorted(color_codes[order], codes), len(color_codes) - 1)]
    is_match = color_codes[indices] == codes
    issues = () if is_match.all() else ("masks with colors of no class, ignored there",)
    return MaskValues(np.where(is_match, indices, IGNORE_INDEX).astype(np.uint8), False, issues)


def _is_color_coded(mask: Image.Image, colors: list[Color]) -> bool:
    """Return True if the colors of a palette, and not its indices, identify the classes."""
    palette = np.reshape(mask.getpalette("RGB") or [], (-1, 3)).tolist()
    used = [index for index in np.unique(np.array(mask)).tolist() if index < len(palette)]
    if all(index == IGNORE_INDEX or (index < len(colors) and palette[index] == list(colors[index])) for index in used):
        return False
    return all(tuple(palette[index]) in colors for index in used)


def _make_numbered_labels(used_values: frozenset[int]) -> tuple[str, ...]:
    values = used_values - {IGNORE_INDEX}
    if len(values) > _MAX_CLASSES:
        hint = "check that the files are masks, or write a classes.txt with one class per line"
        expected = f"at most {_MAX_CLASSES}"
        raise UserError("Masks have too many values for classes", got=len(values), expected=expected, hint=hint)
    return tuple(str(value) for value in range(max(values, default=0) + 1))
