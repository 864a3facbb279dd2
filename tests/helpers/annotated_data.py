"""Writers and readers of small data sets with boxes and masks in all supported formats."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.objects import Object, parse_objects
from tfx_finetune.types.components import SOURCES, Source


def write_image(path: Path, width: int = 20, height: int = 10, orientation: int = 1) -> Path:
    """Write a gray image of a size with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (90, 90, 90)).save(path, **({"exif": exif} if orientation > 1 else {}))
    return path


def write_coco_file(
    path: Path,
    annotations: Iterable[dict[str, Any]],
    images: Iterable[dict[str, Any]] = ({"id": 7, "file_name": "a.png", "width": 20, "height": 10},),
    categories: Iterable[dict[str, Any]] = ({"id": 90, "name": "dog"}, {"id": 1, "name": "cat"}),
) -> Path:
    """Write a COCO file and its images; default: one image of 20 by 10 pixels, two classes whose ids have a gap."""
    images = list(images)
    for image in images:
        if file := image.get("file_name"):
            write_image(path.parent / file, image.get("width") or 20, image.get("height") or 10)
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": list(categories)}))
    return path


def make_annotation(bbox: Any = (2, 1, 10, 5), category: Any = 1, image: Any = 7, **more: Any) -> dict[str, Any]:
    """Make an annotation of a COCO file."""
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def make_voc_xml(
    *objects: tuple[str, tuple[float, ...], int], size: tuple[int, int] | None = (20, 10), file: str = ""
) -> str:
    """Make the XML of a Pascal VOC file; an object is (class, (xmin, ymin, xmax, ymax), difficult)."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    text = f"<annotation><filename>{file}</filename>"
    if size:
        text += f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    for name, box, difficult in objects:
        inner = "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, box, strict=False))
        text += f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"
    return text + "</annotation>"


def write_voc_folder(root: Path, files: dict[str, str], sets: dict[str, list[str]] | None = None) -> Path:
    """Write a folder in the layout of Pascal VOC: images of 20 by 10 pixels, annotation files, and lists of splits."""
    (root / "Annotations").mkdir(parents=True)
    for name, text in files.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in (sets or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_yolo_folder(root: Path, labels: dict[str, str | None]) -> Path:
    """Write images/ of 20 by 10 pixels and labels/ by the path without suffix; None writes no label file."""
    for name, text in labels.items():
        write_image(root / "images" / f"{name}.png")
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)
    return root


def write_mask(path: Path, values: Any, mode: str = "L", palette: list[int] | None = None) -> Path:
    """Write a mask of values (height, width) or (height, width, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(values, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(array) if mode != "P" else Image.fromarray(array).convert("L")
    if mode == "P":
        image.putpalette(palette or [0, 0, 0, 128, 0, 0, 0, 128, 0])
    elif mode == "1":
        image = Image.fromarray(array * 255).convert("1")
    image.save(path)
    return path


def build_source(name: str, *args: Any, **options: Any) -> Source:
    """Build a source by its name."""
    return SOURCES.build(Spec(name, tuple(str(arg) if isinstance(arg, Path) else arg for arg in args), options))


def build_coco_source(root: Path, *annotations: dict[str, Any], **options: Any) -> Source:
    """Build the source of a COCO file with some annotations of one image; see `write_coco_file`."""
    return build_source("coco", write_coco_file(root / "all.json", annotations), **options)


def read_objects(source: Source, part: str = "all") -> dict[str, list[Object]]:
    """Read the objects of every image, by its file name."""
    samples = source.read(part).as_numpy_iterator()
    return {Path(sample["file"].decode()).name: parse_objects(sample["objects"].decode()) for sample in samples}


def read_masks(source: Source, part: str = "all") -> dict[str, np.ndarray]:
    """Read the gray values or palette indices of the mask of every image, by its file name."""
    samples = source.read(part).as_numpy_iterator()
    return {Path(sample["file"].decode()).name: np.array(Image.open(sample["mask"].decode())) for sample in samples}
