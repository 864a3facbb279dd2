"""Data sets in COCO's format: boxes and outlines of objects in a JSON file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.coco_file import CocoAnnotation, CocoImage, is_coco_file, read_coco_file
from tfx_finetune.datasets.sources.frames import Frame, make_annotation_frame
from tfx_finetune.datasets.sources.in_memory import SPLIT_NAMES, InMemorySource, format_path, group_columns_by_split
from tfx_finetune.datasets.sources.mask_cache import cache_mask
from tfx_finetune.datasets.sources.outlines import (
    Region,
    Segmentation,
    compute_bounding_box,
    draw_mask,
    parse_polygons,
    parse_rle,
)
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, are_normalized, repair_box
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND, IGNORE_INDEX


@SOURCES.register
def coco(annotations: str, images: str = "", val: str = "", test: str = "", masks: bool = False) -> Source:
    """Boxes and outlines in COCO's format, such as coco('instances.json'), or masks drawn of them for segmentation.

    Crowds (`iscrowd`) are neither learned nor scored. Category ids may have gaps. Pictures without annotations are
    kept: there is nothing to be found in them.

    Args:
        annotations: The JSON file; or a folder with one for each split, which is told by the name of the file or of its
            folder: instances_train2017.json, valid/_annotations.coco.json.
        images: The folder of the pictures; by default looked for beside the file.
        val: The file of the split to choose the best epoch on; `annotations` then is that to train on.
        test: The file of the split to test on; as `val`.
        masks: Whether outlines are drawn, once, into the cache. What has none is untold there, within its box.

    Raises:
        UserError: A file is not in this format, or none of its pictures is found.
    """
    places = _find_annotation_files(Path(annotations).expanduser(), val, test)
    care = AnnotationIssues()
    contents = {part: read_coco_file(place, care) for part, place in places.items()}
    names = tuple(dict.fromkeys(name for own, _ in contents.values() for name in own))
    labels = tuple(dict.fromkeys((BACKGROUND, *names))) if masks else names
    if masks and len(labels) > IGNORE_INDEX:
        raise UserError("too many classes for masks", got=len(labels), expected=f"up to {IGNORE_INDEX}")
    records = []
    for part, (_, pictures) in contents.items():
        folder = _find_image_folder(places[part], images, part, pictures)
        split = {} if part == "all" else {"split": part}
        records += [split | record for record in _make_records(folder, pictures, labels if masks else (), care)]
    name = format_path(Path(annotations).expanduser().resolve().stem)
    return InMemorySource(
        name, labels, ("image", "mask") if masks else ("image",), group_columns_by_split(records), care.report()
    )


def is_coco_folder(folder: Path) -> bool:
    """Whether a folder holds annotations in COCO's format, in itself or in a folder below."""
    return any(_find_coco_files(folder))


def _find_annotation_files(root: Path, val: str, test: str) -> dict[str, Path]:
    """The file of each part."""
    said = {part: Path(path).expanduser() for part, path in (("val", val), ("test", test)) if path}
    if not root.is_dir():
        found = {"train" if said else "all": root} | said
        for each in found.values():
            if not each.is_file():
                raise UserError("no such file or folder", got=each)
        return found
    every = list(_find_coco_files(root))
    if not every or said:
        what = "no COCO file in this folder" if not every else "a folder says the splits by itself"
        raise UserError(what, got=root, hint="say coco('train.json', val='val.json', test='test.json')")
    parts = {each: _infer_split(each) for each in every}
    if len(every) > 1 and (not all(parts.values()) or len(set(parts.values())) < len(every)):
        received = ", ".join(str(each.relative_to(root)) for each in every)
        todo = "say coco('train.json', val='val.json', test='test.json')"
        raise UserError("which of these files is which split?", got=received, hint=todo)
    return {part or "all": each for each, part in parts.items()}


def _find_coco_files(folder: Path) -> Iterator[Path]:
    """COCO files; of files for several purposes, as COCO itself has them, those of objects."""
    every = sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])
    yield from filter(is_coco_file, [each for each in every if "instances" in each.name] or every)


def _infer_split(path: Path) -> str:
    words = [*re.findall("[a-z]+", path.stem.lower()), *re.findall("[a-z]+", path.parent.name.lower())]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _find_image_folder(annotation_file: Path, images: str, part: str, coco_images: list[CocoImage]) -> Path:
    """Where the pictures are: the first folder that has the most of some of them."""
    own = annotation_file.stem.rpartition("_")[2]
    roots = [Path(images).expanduser()] if images else [annotation_file.parent, annotation_file.parent.parent]
    below = ("", "images", own, f"images/{own}", part, f"images/{part}", f"images/{annotation_file.stem}")
    folders = [root / name for root in roots for name in dict.fromkeys(below)]
    some = coco_images[:: max(len(coco_images) // 50, 1)]
    best = max(folders, key=lambda folder: sum((folder / each.file).is_file() for each in some))
    if any((best / each.file).is_file() for each in some):
        return best
    for folder in folders:
        if any((folder / each.file).is_file() for each in coco_images):
            return folder
    received = f"{annotation_file} lists {coco_images[0].file}, ..."
    raise UserError("none of the pictures is found", got=received, expected=roots, hint="say images='FOLDER'")


def _make_records(
    folder: Path, coco_images: list[CocoImage], labels: tuple[str, ...], issues: AnnotationIssues
) -> Iterator[dict[str, str]]:
    """Samples; with masks where there are labels for them."""
    edges = [each.box for picture in coco_images for each in picture.annotations if each.box]
    shares = are_normalized(edges)
    if shares:
        issues.count("boxes in shares of their picture where COCO has pixels, taken as shares", folder.name, len(edges))
    with progress.bar("annotated", len(coco_images)) as advance:
        for picture in coco_images:
            path = folder / picture.file
            sized = make_annotation_frame(path, picture.size, issues)
            record = {"image": str(path), "file": format_path(str(path)), "objects": ""}
            record |= {"mask": ""} if labels else {}
            # Without a frame the picture cannot be read either, which the survey tells of.
            yield record | _make_annotation_columns(picture, sized, shares, labels, issues) if sized else record
            advance()


def _make_annotation_columns(
    coco_image: CocoImage, frame: Frame, normalized: bool, labels: tuple[str, ...], issues: AnnotationIssues
) -> dict[str, str]:
    """The columns `objects` and, where there are labels for it, `mask`."""
    width, height = round(frame.width), round(frame.height)
    objects, regions = [], []
    for annotation in coco_image.annotations:
        shape = (
            _parse_segmentation(annotation, width, height, normalized, coco_image.file, issues)
            if labels or not annotation.box
            else None
        )
        edges = _make_pixel_box(annotation, frame, normalized, shape)
        if annotation.box and not normalized and max(map(abs, annotation.box)) <= 1:
            issues.count("boxes within the first pixel of their picture, perhaps in shares, left out", coco_image.file)
        elif edges and (inside := repair_box(frame.normalize_box(edges), issues, coco_image.file)):
            objects.append(Object(annotation.label, *inside, annotation.crowd))
            if labels:
                regions.append(
                    Region(IGNORE_INDEX if annotation.crowd else labels.index(annotation.label), shape, edges)
                )
    found = {"objects": format_objects(objects)}
    if labels:
        made_of = [width, height, frame.orientation, regions]
        found["mask"] = cache_mask(made_of, lambda: frame.turn_upright(draw_mask(regions, width, height)))
    return found


def _make_pixel_box(
    annotation: CocoAnnotation, frame: Frame, normalized: bool, segmentation: Segmentation
) -> BoxXYXY | None:
    """The box in pixels, that around the outline where there is none."""
    if annotation.box is None:
        return compute_bounding_box(segmentation, round(frame.height)) if segmentation else None
    left, top, right, bottom = annotation.box
    across, down = (frame.width, frame.height) if normalized else (1.0, 1.0)
    return left * across, top * down, right * across, bottom * down


def _parse_segmentation(
    annotation: CocoAnnotation, width: int, height: int, normalized: bool, file: str, issues: AnnotationIssues
) -> Segmentation:
    """The outline, where it can be used."""
    outline = annotation.segmentation
    if not outline:
        return None
    if isinstance(outline, Mapping):
        shape: Segmentation = parse_rle(outline, width, height)
        if shape is None:
            issues.count("run lengths that do not fill their picture, left out", file)
        return shape
    shape = parse_polygons(outline, width, height, normalized)
    if not shape or len(shape) < len(outline):
        issues.count("polygons of fewer than three points, or not of numbers in their picture, left out", file)
    return shape
