"""Pictures in one folder and their masks in another."""

from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import (
    SPLIT_NAMES,
    Rows,
    by_name,
    by_split,
    pictures,
    readable,
    split_folders,
)
from tfx_finetune.datasets.sources.mask_colors import colour_map
from tfx_finetune.datasets.sources.mask_files import Pair, masked
from tfx_finetune.ops.annotations import Care
from tfx_finetune.types.components import SOURCES, Source

_MARKS = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "")
_PAIRS = (("images", "masks"), ("JPEGImages", "SegmentationClass"))


@SOURCES.register
def masks(path: str, images: str = "images", masks: str = "masks", colours: str = "") -> Source:
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
        raise UserError("not a folder" if root.exists() else "no such folder", received=path)
    care, known = Care(), colour_map(root, colours)
    pairs = list(_pairs(root, images, masks, care))
    if not pairs:
        allowed = f"{images}/1.jpg and {masks}/1.png, or 1.jpg and 1_mask.png"
        raise UserError("no picture with a mask in this folder", received=path, allowed=allowed)
    labels, records = masked(pairs, known, care)
    notes = care.told()
    if not records:
        raise UserError("no mask of this folder can be used", received=path)
    return Rows(readable(root.resolve().name), labels, ("image", "mask"), by_split(records), notes)


def is_folder(folder: Path) -> bool:
    """Whether a folder has pictures and masks by the usual names of their folders."""
    return any(
        all((place / name).is_dir() for name in ("images", "masks")) for place in (folder, *split_folders(folder))
    )


def _pairs(root: Path, images: str, masks: str, care: Care) -> Iterator[Pair]:
    for split, holder, folder in _holders(root, images, masks):
        files = by_name(folder, pictures(folder))
        if wrong := next(
            (path for path in files.values() if holder != folder and path.suffix.lower() in (".jpg", ".jpeg")), None
        ):
            raise UserError("JPEG changes the values of masks", received=wrong, allowed="masks as PNG")
        for picture in pictures(holder):
            stem = picture.relative_to(holder).with_suffix("").as_posix()
            if holder == folder and any(mark and stem.endswith(mark) for mark in _MARKS):
                continue
            marks = [mark for mark in _MARKS if stem + mark in files and files[stem + mark] != picture]
            if marks:
                yield split, picture, files.pop(stem + marks[0])
            else:
                care.count("pictures without a mask, left out", readable(str(picture)))
        if holder != folder:
            for mask in files.values():
                care.count("masks without a picture, left out", readable(str(mask)))


def _holders(root: Path, images: str, masks: str) -> Iterator[tuple[str, Path, Path]]:
    """(split, folder of pictures, folder of masks), the same one where masks lie beside their pictures."""
    if (root / images).is_dir() and (root / masks).is_dir():
        below = split_folders(root / images)
        for place in below:
            yield SPLIT_NAMES[place.name.lower()], place, root / masks / place.name
        if not below:
            yield "", root / images, root / masks
        return
    for place in split_folders(root) or [root]:
        split = SPLIT_NAMES[place.name.lower()] if place != root else ""
        inner = (place / images, place / masks)
        yield (split, *inner) if all(folder.is_dir() for folder in inner) else (split, place, place)
