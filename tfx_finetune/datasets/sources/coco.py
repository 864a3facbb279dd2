"""Source of data sets in COCO's format: boxes and segmentations of objects in JSON files."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.annotation_frame import AnnotationFrame, make_annotation_frame, rotate_upright
from tfx_finetune.datasets.sources.coco_file import CocoAnnotation, CocoImage, is_coco_file, read_coco_file
from tfx_finetune.datasets.sources.data_files import SPLIT_NAMES, format_path
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.datasets.sources.segmentations import (
    Region,
    Segmentation,
    cache_mask,
    compute_bounding_box,
    draw_mask,
    parse_polygons,
    parse_rle,
)
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, are_normalized, repair_box
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND, IGNORE_INDEX

_SPLITS_HINT = "write coco('train.json', val='val.json', test='test.json')"


@SOURCES.register
def coco(annotations: str, images: str = "", val: str = "", test: str = "", masks: bool = False) -> Source:
    """Read boxes or segmentation masks in COCO's format, such as coco('instances.json').

    Crowds (`iscrowd`) are neither trained nor scored. Category ids may have gaps. Images without annotations are
    samples without objects.

    Args:
        annotations: JSON file; or a folder with one JSON file per split, which the name of the file or of its folder
            tells: instances_train2017.json, valid/_annotations.coco.json.
        images: Folder of the images. Default: searched near the JSON file.
        val: JSON file of the validation split; `annotations` is then the training split.
        test: JSON file of the test split; `annotations` is then the training split.
        masks: If True, draw masks for semantic segmentation from the segmentations, once, into the cache. The box of an
            object without a segmentation is ignored in the mask.

    Raises:
        UserError: If a file has another format, or if none of its images is found.
    """
    annotation_files = _find_annotation_files(Path(annotations).expanduser(), val, test)
    issues = AnnotationIssues()
    contents = {part: read_coco_file(file, issues) for part, file in annotation_files.items()}
    names = tuple(dict.fromkeys(name for class_names, _ in contents.values() for name in class_names))
    labels = tuple(dict.fromkeys((BACKGROUND, *names))) if masks else names
    if masks and len(labels) > IGNORE_INDEX:
        raise UserError("Too many classes for masks", got=len(labels), expected=f"at most {IGNORE_INDEX}")
    records = []
    for part, (_, coco_images) in contents.items():
        folder = _find_image_folder(annotation_files[part], images, part, coco_images)
        split = "" if part == "all" else part
        mask_labels = labels if masks else ()
        records += [{"split": split} | record for record in _make_records(folder, coco_images, mask_labels, issues)]
    name = format_path(Path(annotations).expanduser().resolve().stem)
    paths = ("image", "mask") if masks else ("image",)
    return InMemorySource(name, labels, paths, group_columns_by_split(records), issues.report())


def is_coco_folder(folder: Path) -> bool:
    """Return True if a folder or one of its sub-folders has a JSON file in COCO's format."""
    return any(_find_coco_files(folder))


def _find_annotation_files(root: Path, val: str, test: str) -> dict[str, Path]:
    """Find the annotation file of each part."""
    held_out_files = {part: Path(path).expanduser() for part, path in (("val", val), ("test", test)) if path}
    if not root.is_dir():
        files_by_part = {"train" if held_out_files else "all": root} | held_out_files
        for file in files_by_part.values():
            if not file.is_file():
                raise UserError("No such file or folder", got=file)
        return files_by_part
    files = list(_find_coco_files(root))
    if not files:
        raise UserError("The folder has no file in COCO's format", got=root, hint=_SPLITS_HINT)
    if held_out_files:
        raise UserError("coco() takes val= and test= only with a file, not with a folder", got=root, hint=_SPLITS_HINT)
    splits = {file: _infer_split(file) for file in files}
    if len(files) > 1 and (not all(splits.values()) or len(set(splits.values())) < len(files)):
        names = ", ".join(str(file.relative_to(root)) for file in files)
        raise UserError("The names of COCO files do not tell their splits", got=names, hint=_SPLITS_HINT)
    return {split or "all": file for file, split in splits.items()}


def _find_coco_files(folder: Path) -> Iterator[Path]:
    """Find COCO files; if some are named `instances`, as in COCO's own download, only those."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])
    yield from filter(is_coco_file, [file for file in files if "instances" in file.name] or files)


def _infer_split(path: Path) -> str:
    words = [*re.findall("[a-z]+", path.stem.lower()), *re.findall("[a-z]+", path.parent.name.lower())]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _find_image_folder(annotation_file: Path, images: str, part: str, coco_images: list[CocoImage]) -> Path:
    """Find the folder that has most of a sample of 50 images; of equal ones, the first."""
    name = annotation_file.stem.rpartition("_")[2]
    roots = [Path(images).expanduser()] if images else [annotation_file.parent, annotation_file.parent.parent]
    candidates = ("", "images", name, f"images/{name}", part, f"images/{part}", f"images/{annotation_file.stem}")
    folders = [root / candidate for root in roots for candidate in dict.fromkeys(candidates)]
    sample = coco_images[:: max(len(coco_images) // 50, 1)]
    best = max(folders, key=lambda folder: sum((folder / image.file).is_file() for image in sample))
    if any((best / image.file).is_file() for image in sample):
        return best
    for folder in folders:
        if any((folder / image.file).is_file() for image in coco_images):
            return folder
    example = f"{annotation_file} lists {coco_images[0].file}, ..."
    raise UserError("None of the images is found", got=example, expected=roots, hint="add images='FOLDER'")


def _make_records(
    folder: Path, coco_images: list[CocoImage], labels: tuple[str, ...], issues: AnnotationIssues
) -> Iterator[dict[str, str]]:
    """Yield one record per image, with a mask if `labels` are given."""
    boxes = [annotation.box for image in coco_images for annotation in image.annotations if annotation.box]
    normalized = are_normalized(boxes)
    if normalized:
        issues.count("boxes as fractions of the image instead of pixels, read as fractions", folder.name, len(boxes))
    with progress.bar("annotated", len(coco_images)) as advance:
        for image in coco_images:
            path = folder / image.file
            frame = make_annotation_frame(path, image.size, issues)
            record = {"image": str(path), "file": format_path(str(path)), "objects": ""}
            record |= {"mask": ""} if labels else {}
            # Without a frame, the image cannot be read either, which the survey reports.
            yield record | _make_annotation_columns(image, frame, normalized, labels, issues) if frame else record
            advance()


def _make_annotation_columns(
    image: CocoImage, frame: AnnotationFrame, normalized: bool, labels: tuple[str, ...], issues: AnnotationIssues
) -> dict[str, str]:
    """Return the column `objects` and, if `labels` are given, the column `mask`."""
    width, height = round(frame.width), round(frame.height)
    objects, regions = [], []
    for annotation in image.annotations:
        needs_shape = labels or not annotation.box
        shape = _parse_segmentation(annotation, width, height, normalized, image.file, issues) if needs_shape else None
        box = _make_pixel_box(annotation, frame, normalized, shape)
        if annotation.box and not normalized and max(map(abs, annotation.box)) <= 1:
            issues.count("boxes within the first pixel, perhaps fractions of the image, left out", image.file)
        elif box and (repaired := repair_box(frame.normalize_box(box), issues, image.file)):
            objects.append(Object(annotation.label, *repaired, annotation.crowd))
            if labels:
                value = IGNORE_INDEX if annotation.crowd else labels.index(annotation.label)
                regions.append(Region(value, shape, box))
    columns = {"objects": format_objects(objects)}
    if labels:
        key_parts = [width, height, frame.orientation, regions]
        columns["mask"] = cache_mask(
            key_parts, lambda: rotate_upright(draw_mask(regions, width, height), frame.orientation)
        )
    return columns


def _make_pixel_box(
    annotation: CocoAnnotation, frame: AnnotationFrame, normalized: bool, segmentation: Segmentation
) -> BoxXYXY | None:
    """Return the box in pixels; if there is none, the bounding box of the segmentation."""
    if annotation.box is None:
        return compute_bounding_box(segmentation, round(frame.height)) if segmentation else None
    left, top, right, bottom = annotation.box
    x_scale, y_scale = (frame.width, frame.height) if normalized else (1.0, 1.0)
    return left * x_scale, top * y_scale, right * x_scale, bottom * y_scale


def _parse_segmentation(
    annotation: CocoAnnotation, width: int, height: int, normalized: bool, file: str, issues: AnnotationIssues
) -> Segmentation:
    """Return the segmentation of an annotation, or None if there is no valid one."""
    raw = annotation.segmentation
    if not raw:
        return None
    if isinstance(raw, Mapping):
        run_lengths: Segmentation = parse_rle(raw, width, height)
        if run_lengths is None:
            issues.count("run lengths that do not fill the image, left out", file)
        return run_lengths
    polygons = parse_polygons(raw, width, height, normalized)
    if not polygons or len(polygons) < len(raw):
        issues.count("polygons with fewer than three points or invalid coordinates, left out", file)
    return polygons
