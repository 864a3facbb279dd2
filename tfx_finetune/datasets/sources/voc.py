"""Source of data sets in Pascal VOC's format: boxes in one XML file per image, and masks as palette PNGs."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.annotation_frame import make_annotation_frame
from tfx_finetune.datasets.sources.data_files import (
    FILE_SUFFIXES,
    SPLIT_NAMES,
    find_images,
    format_path,
    list_split_folders,
    map_files_by_name,
    resolve_folder,
)
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.datasets.sources.mask_files import MaskPair, read_color_map, read_masks
from tfx_finetune.datasets.sources.voc_file import VocAnnotation, read_voc_file
from tfx_finetune.ops.annotations import AnnotationIssues, are_normalized, repair_box
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND

CLASSES = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of VOC's own masks, in the order of their values."""
_IMAGE_FOLDERS = ("JPEGImages", "images")
_SPLIT_FILES = ("train", "val", "trainval", "test")


@SOURCES.register
def voc(path: str, masks: bool = False) -> Source:
    """Read boxes or segmentation masks in Pascal VOC's format, such as voc('VOCdevkit/VOC2012').

    The folder has Annotations/*.xml, JPEGImages/ (or images/) and, for splits, ImageSets/Main/train.txt, val.txt,
    test.txt. XML files next to their images are read too, in one folder or in one folder per split. `difficult`
    objects are neither trained nor scored. Images without objects are kept.

    Args:
        path: Folder of the data.
        masks: If True, read the masks of SegmentationClass/, with the splits of ImageSets/Segmentation, instead of the
            boxes. Mask values are VOC's twenty classes, or those of a labelmap.txt (see the source `masks`); the value
            255 is ignored.

    Raises:
        UserError: If the folder has another layout, or if no annotation can be read.
    """
    root = resolve_folder(path)
    issues, name = AnnotationIssues(), format_path(root.resolve().name)
    if masks:
        color_map = read_color_map(root) or dict.fromkeys(CLASSES)
        labels, records = read_masks(list(_find_mask_pairs(root, issues)), color_map, issues)
        warnings = issues.report()
        if not records:
            raise UserError("The folder has no usable mask", got=path, expected="SegmentationClass/*.png")
        return InMemorySource(name, labels, ("image", "mask"), group_columns_by_split(records), warnings)
    annotated_images = list(_iterate_annotated_images(root, issues))
    records = list(_make_records(annotated_images, issues))
    warnings = issues.report()
    if not any(image.annotation for image in annotated_images):
        layout = "Annotations/*.xml and JPEGImages/, or XML files next to their images"
        raise UserError("The folder has no readable annotation", got=path, expected=layout)
    return InMemorySource(name, (), ("image",), group_columns_by_split(records), warnings)


def is_voc_folder(folder: Path) -> bool:
    """Return True if a folder has the layout of Pascal VOC, or XML files next to images."""
    if (folder / "Annotations").is_dir() and _find_image_folder(folder):
        return any((folder / "Annotations").glob("*.xml"))
    folders = list_split_folders(folder) or [folder]
    files = (file for parent in folders for file in itertools.islice(parent.glob("*.xml"), 20))
    return any(file.with_suffix(suffix).is_file() for file in files for suffix in FILE_SUFFIXES["image"])


class AnnotatedImage(NamedTuple):
    """Image of a VOC data set.

    Attributes:
        split: Split of the image; empty for none.
        path: Image file.
        annotation: Content of its annotation file; None if there is no file.
    """

    split: str
    path: Path
    annotation: VocAnnotation | None


def _iterate_annotated_images(root: Path, issues: AnnotationIssues) -> Iterator[AnnotatedImage]:
    image_folder = _find_image_folder(root)
    if (root / "Annotations").is_dir() and image_folder:
        yield from _iterate_images_in_splits(root, image_folder, issues)
        return
    for folder in list_split_folders(root) or [root]:
        split = SPLIT_NAMES.get(folder.name.lower(), "") if folder != root else ""
        images = map_files_by_name(folder, find_images(folder))
        annotation_files = map_files_by_name(folder, sorted(folder.rglob("*.xml")))
        yield from _match_annotations(split, images, folder, annotation_files, issues)


def _iterate_images_in_splits(root: Path, image_folder: Path, issues: AnnotationIssues) -> Iterator[AnnotatedImage]:
    annotation_folder = root / "Annotations"
    images = map_files_by_name(image_folder, find_images(image_folder))
    annotation_files = map_files_by_name(annotation_folder, sorted(annotation_folder.rglob("*.xml")))
    splits = _read_splits(root / "ImageSets" / "Main")
    if not splits:
        yield from _match_annotations("", images, image_folder, annotation_files, issues)
    for split, names in splits.items():
        split_images = {name: images.get(name, image_folder / f"{name}.jpg") for name in names}
        if split_files := {name: annotation_files[name] for name in names if name in annotation_files}:
            yield from _match_annotations(split, split_images, image_folder, split_files, issues)
        else:
            issues.count("splits without annotations, left out", split)


def _match_annotations(
    split: str, images: dict[str, Path], image_folder: Path, annotation_files: dict[str, Path], issues: AnnotationIssues
) -> Iterator[AnnotatedImage]:
    """Yield the images of one split: those with an annotation file, then those without."""
    unmatched = dict(images)
    for name, file in annotation_files.items():
        path = unmatched.pop(name, None)
        annotation = read_voc_file(file, issues)
        if annotation is None:
            continue
        if path is None and annotation.file:
            path = unmatched.pop(Path(name).with_name(annotation.file).with_suffix("").as_posix(), None)
        # A missing image is a sample that cannot be read: the survey lists it.
        yield AnnotatedImage(split, path or image_folder / (annotation.file or f"{name}.jpg"), annotation)
    for path in unmatched.values():
        issues.count("images without an annotation file, read as images without objects", format_path(str(path)))
        yield AnnotatedImage(split, path, None)


def _make_records(annotated_images: list[AnnotatedImage], issues: AnnotationIssues) -> Iterator[dict[str, str]]:
    boxes = [item.box for image in annotated_images if image.annotation for item in image.annotation.objects]
    normalized = are_normalized(boxes)
    # VOC counts pixels from 1, and a box includes its last pixel; most programs count from 0.
    first_pixel = 0 if normalized or any(min(box[:2]) < 1 for box in boxes) else 1
    if normalized:
        issues.count("boxes as fractions of the image instead of pixels, read as fractions", "all", len(boxes))
    elif boxes and not first_pixel:
        issues.count("boxes that count pixels from 0 instead of 1, read as such", "all", len(boxes))
    for split, path, annotation in annotated_images:
        file = format_path(str(path))
        objects = []
        frame = make_annotation_frame(path, annotation.size, issues) if annotation else None
        if annotation and frame:
            frame = frame._replace(width=1.0, height=1.0) if normalized else frame
            for label, (left, top, right, bottom), difficult in annotation.objects:
                box = frame.normalize_box((left - first_pixel, top - first_pixel, right, bottom))
                if repaired := repair_box(box, issues, file):
                    objects.append(Object(label, *repaired, difficult))
        yield {"image": str(path), "file": file, "objects": format_objects(objects), "split": split}


def _find_mask_pairs(root: Path, issues: AnnotationIssues) -> Iterator[MaskPair]:
    image_folder, mask_folder = _find_image_folder(root), root / "SegmentationClass"
    if not image_folder or not mask_folder.is_dir():
        return
    images = map_files_by_name(image_folder, find_images(image_folder))
    masks = map_files_by_name(mask_folder, sorted(mask_folder.rglob("*.png")))
    for split, names in (_read_splits(root / "ImageSets" / "Segmentation") or {"": list(masks)}).items():
        for name in names:
            if name in masks:
                yield split, images.get(name, image_folder / f"{name}.jpg"), masks[name]
            else:
                issues.count("images without a mask, left out", name)


def _read_splits(folder: Path) -> dict[str, list[str]]:
    """Read the image names of each split; `trainval.txt` is the training split if there is no `train.txt`."""
    splits = {}
    for name in _SPLIT_FILES:
        if (folder / f"{name}.txt").is_file():
            # A flag may follow the name of an image.
            lines = (folder / f"{name}.txt").read_text("utf-8", errors="replace").splitlines()
            splits[name] = list(dict.fromkeys(re.split(r"\s+", line.strip())[0] for line in lines if line.strip()))
    if trainval := splits.pop("trainval", None):
        splits = splits if "train" in splits else {"train": trainval} | splits
    return {name: names for name, names in splits.items() if names}


def _find_image_folder(root: Path) -> Path | None:
    return next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
