"""Parser of annotation files of Pascal VOC, which LabelImg and other tools write too."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tfx_finetune.datasets.sources.data_files import format_path
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name, parse_numbers

_EDGES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """Object in an image.

    Attributes:
        label: Class name.
        box: Box in the units of the file.
        difficult: True if the object is neither trained nor scored.
    """

    label: str
    box: BoxXYXY
    difficult: bool


@dataclass
class VocAnnotation:
    """Annotation of an image.

    Attributes:
        file: File name of the image; may be empty.
        size: Width and height in pixels that the file states, or None.
        objects: Objects in the image.
    """

    file: str
    size: tuple[float, float] | None
    objects: list[VocObject] = field(default_factory=list)


class _TreeBuilder(ElementTree.TreeBuilder):
    """Tree builder that refuses document types, because a few bytes of entities can expand to gigabytes."""

    def doctype(self, *args: Any) -> None:
        raise ElementTree.ParseError("document types are not supported")


def read_voc_file(path: Path, issues: AnnotationIssues) -> VocAnnotation | None:
    """Read an annotation file; return None and count an issue if it cannot be read."""
    location = format_path(str(path))
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_TreeBuilder()))
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        root = None
    if root is None or root.tag != "annotation":
        issues.count("unreadable annotation files, left out with their images", location)
        return None
    size = _read_numbers(root.find("size"), ("width", "height"))
    annotation = VocAnnotation(_read_text(root, "filename"), size)  # type: ignore[arg-type]
    for element in root.iter("object"):
        label, box = normalize_class_name(_read_text(element, "name")), _read_numbers(element.find("bndbox"), _EDGES)
        if not label or box is None:
            issues.count("objects without a class or four edges, left out", location)
            continue
        item = VocObject(label, box, _read_text(element, "difficult") not in ("", "0"))  # type: ignore[arg-type]
        if item in annotation.objects:
            issues.count("duplicate annotations, left out", location)
            continue
        annotation.objects.append(item)
    return annotation


def _read_text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _read_numbers(element: ElementTree.Element | None, names: tuple[str, ...]) -> tuple[float, ...] | None:
    return None if element is None else parse_numbers([_read_text(element, name) for name in names], len(names))
