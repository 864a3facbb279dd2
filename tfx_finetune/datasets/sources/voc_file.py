"""An annotation file of Pascal VOC, which LabelImg and others write too."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tfx_finetune.datasets.sources.in_memory import readable
from tfx_finetune.ops.annotations import Care, Edges, named, numbers

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Marked(NamedTuple):
    """One object: its class, its box in pixels as the file has it, and whether it is neither learned nor scored."""

    label: str
    edges: Edges
    difficult: bool


@dataclass
class Annotation:
    """What a file says of its picture: its name, its width and height where they are said, and what is in it."""

    file: str
    size: tuple[float, float] | None
    objects: list[Marked] = field(default_factory=list)


class _Builder(ElementTree.TreeBuilder):
    """Takes no document type, in which a few bytes can be made to mean gigabytes."""

    def doctype(self, *declared: Any) -> None:
        raise ElementTree.ParseError("it declares a document type")


def read(place: Path, care: Care) -> Annotation | None:
    """Reads an annotation file; nothing, and a finding, where it is not one."""
    where = readable(str(place))
    try:
        root = ElementTree.fromstring(place.read_bytes(), ElementTree.XMLParser(target=_Builder()))
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        root = None
    if root is None or root.tag != "annotation":
        care.count("annotation files that cannot be read, left out with their pictures", where)
        return None
    size = root.find("size")
    found = Annotation(_text(root, "filename"), _numbers(size, ("width", "height")))  # type: ignore[arg-type]
    for each in root.iter("object"):
        label, edges = named(_text(each, "name")), _numbers(each.find("bndbox"), _CORNERS)
        if not label or edges is None:
            care.count("objects without a class or four corners, left out", where)
            continue
        marked = Marked(label, edges, _text(each, "difficult") not in ("", "0"))  # type: ignore[arg-type]
        if marked in found.objects:
            care.count("annotations that are there twice, left out", where)
            continue
        found.objects.append(marked)
    return found


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _numbers(element: ElementTree.Element | None, names: tuple[str, ...]) -> tuple[float, ...] | None:
    return None if element is None else numbers([_text(element, name) for name in names], len(names))
