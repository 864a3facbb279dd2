"""Small data sets with boxes and masks in the formats that people have, written by the tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.objects import Object, parse_objects
from tfx_finetune.types.components import SOURCES, Source


def picture(path: Path, width: int = 20, height: int = 10, orientation: int = 1) -> Path:
    """Writes a grey picture of a size, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (90, 90, 90)).save(path, **({"exif": exif} if orientation > 1 else {}))
    return path


def coco_file(
    path: Path,
    annotations: Iterable[dict[str, Any]],
    images: Iterable[dict[str, Any]] = ({"id": 7, "file_name": "a.png", "width": 20, "height": 10},),
    categories: Iterable[dict[str, Any]] = ({"id": 90, "name": "dog"}, {"id": 1, "name": "cat"}),
) -> Path:
    """Writes a COCO file: by default of one picture of 20 by 10 pixels, beside it, and two classes with a gap."""
    images = list(images)
    for image in images:
        if file := image.get("file_name"):
            picture(path.parent / file, image.get("width") or 20, image.get("height") or 10)
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": list(categories)}))
    return path


def annotation(bbox: Any = (2, 1, 10, 5), category: Any = 1, image: Any = 7, **more: Any) -> dict[str, Any]:
    """An annotation of a COCO file."""
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def voc_xml(
    *objects: tuple[str, tuple[float, ...], int], size: tuple[int, int] | None = (20, 10), file: str = ""
) -> str:
    """An annotation file of Pascal VOC: (class, (xmin, ymin, xmax, ymax), difficult) of each object."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    text = f"<annotation><filename>{file}</filename>"
    if size:
        text += f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    for name, box, difficult in objects:
        inner = "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, box, strict=False))
        text += f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"
    return text + "</annotation>"


def voc_folder(root: Path, files: dict[str, str], sets: dict[str, list[str]] | None = None) -> Path:
    """Writes a folder like Pascal VOC's: pictures of 20 by 10 pixels, their files, and lists of the splits."""
    (root / "Annotations").mkdir(parents=True)
    for name, text in files.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in (sets or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def yolo_folder(root: Path, labels: dict[str, str | None]) -> Path:
    """Writes images/ of 20 by 10 pixels and labels/, by the path without ending; nothing for a file that is missing."""
    for name, text in labels.items():
        picture(root / "images" / f"{name}.png")
        place = root / "labels" / f"{name}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            place.write_text(text)
    return root


def mask_file(path: Path, values: Any, mode: str = "L", palette: list[int] | None = None) -> Path:
    """Writes a mask of values, (height, width) or with channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(values, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(array) if mode != "P" else Image.fromarray(array).convert("L")
    if mode == "P":
        image.putpalette(palette or [0, 0, 0, 128, 0, 0, 0, 128, 0])
    elif mode == "1":
        image = Image.fromarray(array * 255).convert("1")
    image.save(path)
    return path


def source(name: str, *args: Any, **options: Any) -> Source:
    """A source by its name."""
    return SOURCES.build(Spec(name, tuple(str(arg) if isinstance(arg, Path) else arg for arg in args), options))


def objects(source: Source, part: str = "all") -> dict[str, list[Object]]:
    """The objects of every picture, by the name of its file."""
    samples = source.read(part).as_numpy_iterator()
    return {Path(sample["file"].decode()).name: parse_objects(sample["objects"].decode()) for sample in samples}


def values(source: Source, part: str = "all") -> dict[str, np.ndarray]:
    """The masks of every picture, by the name of its file; as a reader of grey values or palette indices has them."""
    samples = source.read(part).as_numpy_iterator()
    return {Path(sample["file"].decode()).name: np.array(Image.open(sample["mask"].decode())) for sample in samples}
