"""Parsers of the files of a YOLO data set: data.yaml, and label files with one object per line."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name


class YoloObject(NamedTuple):
    """Object in an image.

    Attributes:
        class_id: Index of the class.
        box: Box in the units of the file; for a polygon, its bounding box.
    """

    class_id: int
    box: BoxXYXY


class _TextLoader(yaml.BaseLoader):
    """YAML loader that keeps scalars as text, so that classes may be called `yes` or `1`.

    It refuses aliases, because a few nested aliases can expand to gigabytes of text.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a data.yaml; all its scalars are texts.

    Raises:
        UserError: If the file cannot be read or does not contain a mapping.
    """
    hint = "write entries such as `train: images/train` and `names: [cat, dog]`"
    try:
        settings = yaml.load(path.read_text("utf-8-sig"), _TextLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError("Cannot read the YAML file", got=f"{path} ({error})", hint=hint) from None
    if settings in (None, ""):
        return {}
    if not isinstance(settings, dict):
        raise UserError("The YAML file contains no mapping", got=path, hint=hint)
    return settings


def parse_class_names(value: Any, path: Path) -> tuple[str, ...]:
    """Parse the class names of a YOLO data set.

    Args:
        value: List of names, or names by class number.
        path: File of the names, for the error message.

    Returns:
        The names in the order of the class numbers.

    Raises:
        UserError: If `value` is anything else, a number is missing, or a name occurs twice.

    Examples:
        >>> parse_class_names({"1": "dog", "0": "cat"}, Path("data.yaml"))
        ('cat', 'dog')
    """
    try:
        by_number = {
            int(key): normalize_class_name(name)
            for key, name in dict(enumerate(value) if isinstance(value, list) else value).items()
        }
    except (TypeError, ValueError):
        by_number = {}
    names = tuple(by_number.get(number, "") for number in range(len(by_number)))
    if not names or not all(names) or len(set(names)) < len(names):
        expected = "a list of different names, or names by number from 0 on"
        raise UserError("Cannot read the class names", got=f"{path}: {value}", expected=expected)
    return names


def parse_yolo_lines(text: str, has_keypoints: bool, issues: AnnotationIssues, file: str) -> list[YoloObject]:
    """Parse the objects of an image: `class x_center y_center width height`, or a polygon `class x y x y x y ...`.

    Args:
        text: Content of the label file, one object per line.
        has_keypoints: True if keypoints follow each box. They are ignored.
        issues: Receives a count for every malformed line.
        file: Name of the label file, for the counts.

    Examples:
        >>> parse_yolo_lines("0 0.5 0.5 1 1\\n1 0.1 0.2 0.6 0.1 0.3 0.6", False, AnnotationIssues(), "a.txt")
        [YoloObject(class_id=0, box=(0.0, 0.0, 1.0, 1.0)), YoloObject(class_id=1, box=(0.1, 0.1, 0.6, 0.6))]
    """
    objects: list[YoloObject] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            number, *values = map(float, line.split())
        except ValueError:
            values = []
        values = values[:4] if has_keypoints else values
        if len(values) < 4 or len(values) % 2 or not number.is_integer():
            issues.count("lines that are neither a box nor a polygon, left out", file)
            continue
        box = _convert_center_to_corners(values) if len(values) == 4 else _compute_bounding_box(values)
        if (item := YoloObject(int(number), box)) in objects:
            issues.count("duplicate annotations, left out", file)
        else:
            objects.append(item)
    return objects


def _convert_center_to_corners(values: list[float]) -> BoxXYXY:
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _compute_bounding_box(values: list[float]) -> BoxXYXY:
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
