"""Pictures in one folder and their masks in another."""

from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import (
    SPLIT_NAMES,
    InMemorySource,
    find_images,
    format_path,
    group_columns_by_split,
    list_split_folders,
    map_files_by_name,
)
from tfx_finetune.datasets.sources.mask_colors import read_color_map
from tfx_finetune.datasets.sources.mask_files import MaskPair, read_masks
from tfx_finetune.ops.annotations import AnnotationIssues
from tfx_finetune.types.components import SOURCES, Source

_MASK_SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "")
_PAIRS = (("images", "masks"), ("JPEGImages", "SegmentationClass"))


@SOURCES.register
def masks(path: str, images: str = "images", masks: str = "masks", colors: str = "") -> Source:
    """Pictures and their masks, PNG files of the same names: masks('streets') with images/1.jpg and masks/1.png.

    A mask may be called 1_mask.png (or _label, _seg, _L), and then lie beside its picture. Splits are folders: train/
    above or below images/ and masks/. The values of grey masks, or their palette indices, are classes in the order of
    `labelmap.txt` or `classes.txt`, a name a line, where there is one; 255 is untold. With lines `name red green blue`
    masks may be in these colours. What is in colours, or black and white, is written anew in the cache.

    Args:
        path: The folder.
        images: The folder of the pictures in it.
        masks: The folder of the masks in it.
        colours: The file of the classes and their colours, where it is called something else.

    Raises:
        UserError: There is no picture with a mask, or masks have colours and nobody says which.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("not a folder" if root.exists() else "no such folder", got=path)
    care, known = AnnotationIssues(), read_color_map(root, colors)
    pairs = list(_find_mask_pairs(root, images, masks, care))
    if not pairs:
        allowed = f"{images}/1.jpg and {masks}/1.png, or 1.jpg and 1_mask.png"
        raise UserError("no picture with a mask in this folder", got=path, expected=allowed)
    labels, records = read_masks(pairs, known, care)
    notes = care.report()
    if not records:
        raise UserError("no mask of this folder can be used", got=path)
    return InMemorySource(
        format_path(root.resolve().name), labels, ("image", "mask"), group_columns_by_split(records), notes
    )


def is_masks_folder(folder: Path) -> bool:
    """Whether a folder has pictures and masks by the usual names of their folders."""
    return any(
        all((place / name).is_dir() for name in ("images", "masks")) for place in (folder, *list_split_folders(folder))
    )


def _find_mask_pairs(root: Path, images: str, masks: str, issues: AnnotationIssues) -> Iterator[MaskPair]:
    for split, holder, folder in _find_folder_pairs(root, images, masks):
        files = map_files_by_name(folder, find_images(folder))
        if wrong := next(
            (path for path in files.values() if holder != folder and path.suffix.lower() in (".jpg", ".jpeg")), None
        ):
            raise UserError("JPEG changes the values of masks", got=wrong, expected="masks as PNG")
        for picture in find_images(holder):
            stem = picture.relative_to(holder).with_suffix("").as_posix()
            if holder == folder and any(mark and stem.endswith(mark) for mark in _MASK_SUFFIXES):
                continue
            marks = [mark for mark in _MASK_SUFFIXES if stem + mark in files and files[stem + mark] != picture]
            if marks:
                yield split, picture, files.pop(stem + marks[0])
            else:
                issues.count("pictures without a mask, left out", format_path(str(picture)))
        if holder != folder:
            for mask in files.values():
                issues.count("masks without a picture, left out", format_path(str(mask)))


def _find_folder_pairs(root: Path, images: str, masks: str) -> Iterator[tuple[str, Path, Path]]:
    """(split, folder of pictures, folder of masks), the same one where masks lie beside their pictures."""
    if (root / images).is_dir() and (root / masks).is_dir():
        below = list_split_folders(root / images)
        for place in below:
            yield SPLIT_NAMES[place.name.lower()], place, root / masks / place.name
        if not below:
            yield "", root / images, root / masks
        return
    for place in list_split_folders(root) or [root]:
        split = SPLIT_NAMES[place.name.lower()] if place != root else ""
        inner = (place / images, place / masks)
        yield (split, *inner) if all(folder.is_dir() for folder in inner) else (split, place, place)
