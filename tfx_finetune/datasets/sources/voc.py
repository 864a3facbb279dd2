"""Data sets in the format of Pascal VOC: an XML file with the boxes of each picture, and masks as palette PNGs."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.frames import make_annotation_frame
from tfx_finetune.datasets.sources.in_memory import (
    FILE_SUFFIXES,
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
from tfx_finetune.datasets.sources.voc_file import VocAnnotation, read_voc_file
from tfx_finetune.ops.annotations import AnnotationIssues, are_normalized, repair_box
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND

CLASSES = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""What the values of VOC's own masks are."""
_IMAGE_FOLDERS = ("JPEGImages", "images")
_SPLIT_FILES = ("train", "val", "trainval", "test")


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
        raise UserError("not a folder" if root.exists() else "no such folder", got=path)
    care, name = AnnotationIssues(), format_path(root.resolve().name)
    if masks:
        known = read_color_map(root) or dict.fromkeys(CLASSES)
        labels, records = read_masks(list(_find_mask_pairs(root, care)), known, care)
        notes = care.report()
        if not records:
            raise UserError("no mask of this folder can be used", got=path, expected="SegmentationClass/*.png")
        return InMemorySource(name, labels, ("image", "mask"), group_columns_by_split(records), notes)
    found = list(_iterate_annotated_images(root, care))
    records = list(_make_records(found, care))
    notes = care.report()
    if not any(annotation for *_, annotation in found):
        allowed = "Annotations/*.xml and JPEGImages/, or XML files beside their pictures"
        raise UserError("no annotation of this folder can be read", got=path, expected=allowed)
    return InMemorySource(name, (), ("image",), group_columns_by_split(records), notes)


def is_voc_folder(folder: Path) -> bool:
    """Whether a folder is laid out like Pascal VOC's."""
    if (folder / "Annotations").is_dir() and _find_image_folder(folder):
        return any((folder / "Annotations").glob("*.xml"))
    files = (
        file for holder in list_split_folders(folder) or [folder] for file in itertools.islice(holder.glob("*.xml"), 20)
    )
    return any(file.with_suffix(ending).is_file() for file in files for ending in FILE_SUFFIXES["image"])


AnnotatedImage = tuple[str, Path, VocAnnotation | None]
"""The split, the picture, and what is in it, nothing where it has no file."""


def _iterate_annotated_images(root: Path, issues: AnnotationIssues) -> Iterator[AnnotatedImage]:
    holder = _find_image_folder(root)
    if (root / "Annotations").is_dir() and holder:
        yield from _iterate_images_in_splits(root, holder, issues)
        return
    for each in list_split_folders(root) or [root]:
        split = SPLIT_NAMES.get(each.name.lower(), "") if each != root else ""
        yield from _match_annotations(
            split,
            map_files_by_name(each, find_images(each)),
            each,
            map_files_by_name(each, sorted(each.rglob("*.xml"))),
            issues,
        )


def _iterate_images_in_splits(root: Path, image_folder: Path, issues: AnnotationIssues) -> Iterator[AnnotatedImage]:
    folder = root / "Annotations"
    by_stem, annotated = (
        map_files_by_name(image_folder, find_images(image_folder)),
        map_files_by_name(folder, sorted(folder.rglob("*.xml"))),
    )
    sets = _read_splits(root / "ImageSets" / "Main")
    if not sets:
        yield from _match_annotations("", by_stem, image_folder, annotated, issues)
    for split, names in sets.items():
        own = {name: by_stem.get(name, image_folder / f"{name}.jpg") for name in names}
        if files := {name: annotated[name] for name in names if name in annotated}:
            yield from _match_annotations(split, own, image_folder, files, issues)
        else:
            issues.count("splits whose pictures have no annotations, left out", split)


def _match_annotations(
    split: str, images: dict[str, Path], image_folder: Path, annotation_files: dict[str, Path], issues: AnnotationIssues
) -> Iterator[AnnotatedImage]:
    """The pictures of one split: those that files are about, and those that no file is about."""
    without = dict(images)
    for name, file in annotation_files.items():
        place = without.pop(name, None)
        annotation = read_voc_file(file, issues)
        if annotation is None:
            continue
        if place is None and annotation.file:
            place = without.pop(Path(name).with_name(annotation.file).with_suffix("").as_posix(), None)
        # A picture that is not there is a sample that cannot be read: the survey lists it.
        yield split, place or image_folder / (annotation.file or f"{name}.jpg"), annotation
    for place in without.values():
        issues.count("pictures without an annotation file, taken for empty", format_path(str(place)))
        yield split, place, None


def _make_records(annotated_images: list[AnnotatedImage], issues: AnnotationIssues) -> Iterator[dict[str, str]]:
    boxes = [each.box for *_, annotation in annotated_images if annotation for each in annotation.objects]
    shares = are_normalized(boxes)
    # VOC counts pixels from 1, and a box contains its last one; most programs count from 0.
    first = 0 if shares or any(min(edges[:2]) < 1 for edges in boxes) else 1
    if shares:
        issues.count("boxes in shares of their picture where VOC has pixels, taken as shares", "all", len(boxes))
    elif boxes and not first:
        issues.count("boxes that count pixels from 0, not from 1 as VOC does, read so", "all", len(boxes))
    for split, path, annotation in annotated_images:
        file = format_path(str(path))
        objects = []
        sized = make_annotation_frame(path, annotation.size, issues) if annotation else None
        if annotation and sized:
            sized = sized._replace(width=1.0, height=1.0) if shares else sized
            for label, (left, top, right, bottom), difficult in annotation.objects:
                edges = sized.normalize_box((left - first, top - first, right, bottom))
                if inside := repair_box(edges, issues, file):
                    objects.append(Object(label, *inside, difficult))
        record = {"image": str(path), "file": file, "objects": format_objects(objects)}
        yield record | ({"split": split} if split else {})


def _find_mask_pairs(root: Path, issues: AnnotationIssues) -> Iterator[MaskPair]:
    holder, folder = _find_image_folder(root), root / "SegmentationClass"
    if not holder or not folder.is_dir():
        return
    by_stem, masks = (
        map_files_by_name(holder, find_images(holder)),
        map_files_by_name(folder, sorted(folder.rglob("*.png"))),
    )
    for split, names in (_read_splits(root / "ImageSets" / "Segmentation") or {"": list(masks)}).items():
        for name in names:
            if name in masks:
                yield split, by_stem.get(name, holder / f"{name}.jpg"), masks[name]
            else:
                issues.count("pictures without a mask, left out", name)


def _read_splits(folder: Path) -> dict[str, list[str]]:
    """Names of pictures by split. A `trainval.txt` counts where nothing finer is there."""
    found = {}
    for name in _SPLIT_FILES:
        if (folder / f"{name}.txt").is_file():
            # A flag may stand behind a name.
            lines = (folder / f"{name}.txt").read_text("utf-8", errors="replace").splitlines()
            found[name] = list(dict.fromkeys(re.split(r"\s+", line.strip())[0] for line in lines if line.strip()))
    if trainval := found.pop("trainval", None):
        found = found if "train" in found else {"train": trainval} | found
    return {name: names for name, names in found.items() if names}


def _find_image_folder(root: Path) -> Path | None:
    return next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
