"""An annotation file of Pascal VOC, which LabelImg and others write too."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tfx_finetune.datasets.sources.in_memory import format_path
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name, parse_numbers

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One object: its class, its box in pixels as the file has it, and whether it is neither learned nor scored."""

    label: str
    box: BoxXYXY
    difficult: bool


@dataclass
class VocAnnotation:
    """What a file says of its picture: its name, its width and height where they are said, and what is in it."""

    file: str
    size: tuple[float, float] | None
    objects: list[VocObject] = field(default_factory=list)


class _Builder(ElementTree.TreeBuilder):
    """Takes no document type, in which a few bytes can be made to mean gigabytes."""

    def doctype(self, *declared: Any) -> None:
        raise ElementTree.ParseError("it declares a document type")


def read_voc_file(path: Path, issues: AnnotationIssues) -> VocAnnotation | None:
    """Reads an annotation file; nothing, and a finding, where it is not one."""
    where = format_path(str(path))
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        root = None
    if root is None or root.tag != "annotation":
        issues.count("annotation files that cannot be read, left out with their pictures", where)
        return None
    size = root.find("size")
    found = VocAnnotation(_read_text(root, "filename"), _read_numbers(size, ("width", "height")))  # type: ignore[arg-type]
    for each in root.iter("object"):
        label, edges = normalize_class_name(_read_text(each, "name")), _read_numbers(each.find("bndbox"), _CORNERS)
        if not label or edges is None:
            issues.count("objects without a class or four corners, left out", where)
            continue
        marked = VocObject(label, edges, _read_text(each, "difficult") not in ("", "0"))  # type: ignore[arg-type]
        if marked in found.objects:
            issues.count("annotations that are there twice, left out", where)
            continue
        found.objects.append(marked)
    return found


def _read_text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _read_numbers(element: ElementTree.Element | None, names: tuple[str, ...]) -> tuple[float, ...] | None:
    return None if element is None else parse_numbers([_read_text(element, name) for name in names], len(names))
