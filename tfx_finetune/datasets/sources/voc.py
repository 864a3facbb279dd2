"""Data sets in the format of Pascal VOC: an XML file with the boxes of each picture, and masks as palette PNGs."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.frames import frame
from tfx_finetune.datasets.sources.in_memory import (
    ENDINGS,
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
from tfx_finetune.datasets.sources.voc_file import Annotation, read
from tfx_finetune.ops.annotations import Care, are_shares, mended
from tfx_finetune.ops.objects import Object, written
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND

CLASSES = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""What the values of VOC's own masks are."""
_IMAGES = ("JPEGImages", "images")
_SETS = ("train", "val", "trainval", "test")


@SOURCES.register
def voc(path: str, masks: bool = False) -> Source:
    """Boxes or masks in the format of Pascal VOC, such as voc('VOCdevkit/VOC2012').

    A folder with Annotations/*.xml, JPEGImages/ (or images/) and, where there are splits, ImageSets/Main/train.txt and
    so on; or XML files beside their pictures, in one folder or in one a split. Objects that are `difficult` are neither
    learned nor scored. Pictures whose file has no object are kept: there is nothing to be found in them.

    Args:
        path: The folder.
        masks: Masks of SegmentationClass/, with the splits of ImageSets/Segmentation, in place of boxes. Their values
            are VOC's twenty classes, or those of a labelmap.txt (see the source `masks`); 255 is untold.

    Raises:
        UserError: It is not such a folder, or no annotation can be read.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("not a folder" if root.exists() else "no such folder", received=path)
    care, name = Care(), readable(root.resolve().name)
    if masks:
        known = colour_map(root) or dict.fromkeys(CLASSES)
        labels, records = masked(list(_pairs(root, care)), known, care)
        notes = care.told()
        if not records:
            raise UserError("no mask of this folder can be used", received=path, allowed="SegmentationClass/*.png")
        return Rows(name, labels, ("image", "mask"), by_split(records), notes)
    found = list(_annotated(root, care))
    records = list(_records(found, care))
    notes = care.told()
    if not any(annotation for *_, annotation in found):
        allowed = "Annotations/*.xml and JPEGImages/, or XML files beside their pictures"
        raise UserError("no annotation of this folder can be read", received=path, allowed=allowed)
    return Rows(name, (), ("image",), by_split(records), notes)


def is_folder(folder: Path) -> bool:
    """Whether a folder is laid out like Pascal VOC's."""
    if (folder / "Annotations").is_dir() and _images(folder):
        return any((folder / "Annotations").glob("*.xml"))
    files = (
        file for holder in split_folders(folder) or [folder] for file in itertools.islice(holder.glob("*.xml"), 20)
    )
    return any(file.with_suffix(ending).is_file() for file in files for ending in ENDINGS["image"])


Found = tuple[str, Path, Annotation | None]
"""The split, the picture, and what is in it, nothing where it has no file."""


def _annotated(root: Path, care: Care) -> Iterator[Found]:
    holder = _images(root)
    if (root / "Annotations").is_dir() and holder:
        yield from _listed(root, holder, care)
        return
    for each in split_folders(root) or [root]:
        split = SPLIT_NAMES.get(each.name.lower(), "") if each != root else ""
        yield from _of(split, by_name(each, pictures(each)), each, by_name(each, sorted(each.rglob("*.xml"))), care)


def _listed(root: Path, holder: Path, care: Care) -> Iterator[Found]:
    folder = root / "Annotations"
    by_stem, annotated = by_name(holder, pictures(holder)), by_name(folder, sorted(folder.rglob("*.xml")))
    sets = _sets(root / "ImageSets" / "Main")
    if not sets:
        yield from _of("", by_stem, holder, annotated, care)
    for split, names in sets.items():
        own = {name: by_stem.get(name, holder / f"{name}.jpg") for name in names}
        if files := {name: annotated[name] for name in names if name in annotated}:
            yield from _of(split, own, holder, files, care)
        else:
            care.count("splits whose pictures have no annotations, left out", split)


def _of(split: str, own: dict[str, Path], holder: Path, files: dict[str, Path], care: Care) -> Iterator[Found]:
    """The pictures of one split: those that files are about, and those that no file is about."""
    without = dict(own)
    for name, file in files.items():
        place = without.pop(name, None)
        annotation = read(file, care)
        if annotation is None:
            continue
        if place is None and annotation.file:
            place = without.pop(Path(name).with_name(annotation.file).with_suffix("").as_posix(), None)
        # A picture that is not there is a sample that cannot be read: the survey lists it.
        yield split, place or holder / (annotation.file or f"{name}.jpg"), annotation
    for place in without.values():
        care.count("pictures without an annotation file, taken for empty", readable(str(place)))
        yield split, place, None


def _records(found: list[Found], care: Care) -> Iterator[dict[str, str]]:
    boxes = [each.edges for *_, annotation in found if annotation for each in annotation.objects]
    shares = are_shares(boxes)
    # VOC counts pixels from 1, and a box contains its last one; most programs count from 0.
    first = 0 if shares or any(min(edges[:2]) < 1 for edges in boxes) else 1
    if shares:
        care.count("boxes in shares of their picture where VOC has pixels, taken as shares", "all", len(boxes))
    elif boxes and not first:
        care.count("boxes that count pixels from 0, not from 1 as VOC does, read so", "all", len(boxes))
    for split, path, annotation in found:
        file = readable(str(path))
        objects = []
        sized = frame(path, annotation.size, care) if annotation else None
        if annotation and sized:
            sized = sized._replace(width=1.0, height=1.0) if shares else sized
            for label, (left, top, right, bottom), difficult in annotation.objects:
                edges = sized.shares((left - first, top - first, right, bottom))
                if inside := mended(edges, care, file):
                    objects.append(Object(label, *inside, difficult))
        record = {"image": str(path), "file": file, "objects": written(objects)}
        yield record | ({"split": split} if split else {})


def _pairs(root: Path, care: Care) -> Iterator[Pair]:
    holder, folder = _images(root), root / "SegmentationClass"
    if not holder or not folder.is_dir():
        return
    by_stem, masks = by_name(holder, pictures(holder)), by_name(folder, sorted(folder.rglob("*.png")))
    for split, names in (_sets(root / "ImageSets" / "Segmentation") or {"": list(masks)}).items():
        for name in names:
            if name in masks:
                yield split, by_stem.get(name, holder / f"{name}.jpg"), masks[name]
            else:
                care.count("pictures without a mask, left out", name)


def _sets(folder: Path) -> dict[str, list[str]]:
    """Names of pictures by split. A `trainval.txt` counts where nothing finer is there."""
    found = {}
    for name in _SETS:
        if (folder / f"{name}.txt").is_file():
            # A flag may stand behind a name.
            lines = (folder / f"{name}.txt").read_text("utf-8", errors="replace").splitlines()
            found[name] = list(dict.fromkeys(re.split(r"\s+", line.strip())[0] for line in lines if line.strip()))
    if trainval := found.pop("trainval", None):
        found = found if "train" in found else {"train": trainval} | found
    return {name: names for name, names in found.items() if names}


def _images(root: Path) -> Path | None:
    return next((root / name for name in _IMAGES if (root / name).is_dir()), None)
