"""Data sets in COCO's format: boxes and outlines of objects in a JSON file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.coco_file import Annotation, Picture, is_coco, read
from tfx_finetune.datasets.sources.frames import Frame, frame
from tfx_finetune.datasets.sources.in_memory import SPLIT_NAMES, Rows, by_split, readable
from tfx_finetune.datasets.sources.mask_cache import kept
from tfx_finetune.datasets.sources.outlines import Region, Shape, bounds, drawn, polygons, runs
from tfx_finetune.ops.annotations import Care, Edges, are_shares, mended
from tfx_finetune.ops.objects import Object, written
from tfx_finetune.types.components import SOURCES, Source
from tfx_finetune.types.localization import BACKGROUND, UNTOLD


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
    places = _places(Path(annotations).expanduser(), val, test)
    care = Care()
    contents = {part: read(place, care) for part, place in places.items()}
    names = tuple(dict.fromkeys(name for own, _ in contents.values() for name in own))
    labels = tuple(dict.fromkeys((BACKGROUND, *names))) if masks else names
    if masks and len(labels) > UNTOLD:
        raise UserError("too many classes for masks", received=len(labels), allowed=f"up to {UNTOLD}")
    records = []
    for part, (_, pictures) in contents.items():
        folder = _folder(places[part], images, part, pictures)
        split = {} if part == "all" else {"split": part}
        records += [split | record for record in _records(folder, pictures, labels if masks else (), care)]
    name = readable(Path(annotations).expanduser().resolve().stem)
    return Rows(name, labels, ("image", "mask") if masks else ("image",), by_split(records), care.told())


def is_folder(folder: Path) -> bool:
    """Whether a folder holds annotations in COCO's format, in itself or in a folder below."""
    return any(_jsons(folder))


def _places(place: Path, val: str, test: str) -> dict[str, Path]:
    """The file of each part."""
    said = {part: Path(path).expanduser() for part, path in (("val", val), ("test", test)) if path}
    if not place.is_dir():
        found = {"train" if said else "all": place} | said
        for each in found.values():
            if not each.is_file():
                raise UserError("no such file or folder", received=each)
        return found
    every = list(_jsons(place))
    if not every or said:
        what = "no COCO file in this folder" if not every else "a folder says the splits by itself"
        raise UserError(what, received=place, todo="say coco('train.json', val='val.json', test='test.json')")
    parts = {each: _split(each) for each in every}
    if len(every) > 1 and (not all(parts.values()) or len(set(parts.values())) < len(every)):
        received = ", ".join(str(each.relative_to(place)) for each in every)
        todo = "say coco('train.json', val='val.json', test='test.json')"
        raise UserError("which of these files is which split?", received=received, todo=todo)
    return {part or "all": each for each, part in parts.items()}


def _jsons(folder: Path) -> Iterator[Path]:
    """COCO files; of files for several purposes, as COCO itself has them, those of objects."""
    every = sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])
    yield from filter(is_coco, [each for each in every if "instances" in each.name] or every)


def _split(place: Path) -> str:
    words = [*re.findall("[a-z]+", place.stem.lower()), *re.findall("[a-z]+", place.parent.name.lower())]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _folder(place: Path, images: str, part: str, pictures: list[Picture]) -> Path:
    """Where the pictures are: the first folder that has the most of some of them."""
    own = place.stem.rpartition("_")[2]
    roots = [Path(images).expanduser()] if images else [place.parent, place.parent.parent]
    below = ("", "images", own, f"images/{own}", part, f"images/{part}", f"images/{place.stem}")
    folders = [root / name for root in roots for name in dict.fromkeys(below)]
    some = pictures[:: max(len(pictures) // 50, 1)]
    best = max(folders, key=lambda folder: sum((folder / each.file).is_file() for each in some))
    if any((best / each.file).is_file() for each in some):
        return best
    for folder in folders:
        if any((folder / each.file).is_file() for each in pictures):
            return folder
    received = f"{place} lists {pictures[0].file}, ..."
    raise UserError("none of the pictures is found", received=received, allowed=roots, todo="say images='FOLDER'")


def _records(folder: Path, pictures: list[Picture], labels: tuple[str, ...], care: Care) -> Iterator[dict[str, str]]:
    """Samples; with masks where there are labels for them."""
    edges = [each.edges for picture in pictures for each in picture.annotations if each.edges]
    shares = are_shares(edges)
    if shares:
        care.count("boxes in shares of their picture where COCO has pixels, taken as shares", folder.name, len(edges))
    with progress.bar("annotated", len(pictures)) as advance:
        for picture in pictures:
            path = folder / picture.file
            sized = frame(path, picture.size, care)
            record = {"image": str(path), "file": readable(str(path)), "objects": ""}
            record |= {"mask": ""} if labels else {}
            # Without a frame the picture cannot be read either, which the survey tells of.
            yield record | _found(picture, sized, shares, labels, care) if sized else record
            advance()


def _found(picture: Picture, sized: Frame, shares: bool, labels: tuple[str, ...], care: Care) -> dict[str, str]:
    """The columns `objects` and, where there are labels for it, `mask`."""
    width, height = round(sized.width), round(sized.height)
    objects, regions = [], []
    for annotation in picture.annotations:
        shape = (
            _shape(annotation, width, height, shares, picture.file, care) if labels or not annotation.edges else None
        )
        edges = _edges(annotation, sized, shares, shape)
        if annotation.edges and not shares and max(map(abs, annotation.edges)) <= 1:
            care.count("boxes within the first pixel of their picture, perhaps in shares, left out", picture.file)
        elif edges and (inside := mended(sized.shares(edges), care, picture.file)):
            objects.append(Object(annotation.label, *inside, annotation.crowd))
            if labels:
                regions.append(Region(UNTOLD if annotation.crowd else labels.index(annotation.label), shape, edges))
    found = {"objects": written(objects)}
    if labels:
        made_of = [width, height, sized.orientation, regions]
        found["mask"] = kept(made_of, lambda: sized.upright(drawn(regions, width, height)))
    return found


def _edges(annotation: Annotation, sized: Frame, shares: bool, shape: Shape) -> Edges | None:
    """The box in pixels, that around the outline where there is none."""
    if annotation.edges is None:
        return bounds(shape, round(sized.height)) if shape else None
    left, top, right, bottom = annotation.edges
    across, down = (sized.width, sized.height) if shares else (1.0, 1.0)
    return left * across, top * down, right * across, bottom * down


def _shape(annotation: Annotation, width: int, height: int, shares: bool, file: str, care: Care) -> Shape:
    """The outline, where it can be used."""
    outline = annotation.outline
    if not outline:
        return None
    if isinstance(outline, Mapping):
        shape: Shape = runs(outline, width, height)
        if shape is None:
            care.count("run lengths that do not fill their picture, left out", file)
        return shape
    shape = polygons(outline, width, height, shares)
    if not shape or len(shape) < len(outline):
        care.count("polygons of fewer than three points, or not of numbers in their picture, left out", file)
    return shape
