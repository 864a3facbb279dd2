"""Source specs of `--data`: a path gets the source of its format, everything else is parsed as specs."""

import re
from collections.abc import Callable
from pathlib import Path

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec
from tfx_finetune.datasets.sources import coco, idx, masks, tfds, voc, yolo
from tfx_finetune.datasets.sources.coco_file import is_coco_file
from tfx_finetune.types.components import SOURCES

_NAMED_SPEC = re.compile(r"\s*\w+\s*=\s*[a-z]\w*\s*\(")
_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_FOLDER_FORMATS: dict[str, Callable[[Path], bool]] = {
    "idx": lambda path: idx.find_file(path, idx.FILES["train"][0]) is not None,
    "tfds": tfds.is_prepared,
    "coco": coco.is_coco_folder,
    "voc": voc.is_voc_folder,
    "yolo": yolo.is_yolo_folder,
    "masks": masks.is_masks_folder,
}


def infer_source(data: str) -> Spec:
    """Return the source spec of a path or of a spec string, without reading samples.

    Raises:
        UserError: If `data` is neither, or names an unknown source or option.
    """
    path = Path(data).expanduser()
    if _exists(path):
        return Spec(_infer_format(path), (data,))
    if not data.rstrip().endswith(")") and data not in SOURCES:
        hint = did_you_mean(data, SOURCES) or "check the path"
        raise UserError("No such file or folder", got=data, hint=hint)
    spec = parse_spec(data)
    for option in SOURCES.resolve_options(spec).values():
        if isinstance(option, Spec):
            infer_source(str(option))
    return spec


def parse_sources(data: str) -> dict[str, Spec]:
    """Return the source specs of `--data` by name; a source without a name has an empty one.

    Args:
        data: A path, a source spec, or several named source specs such as `a=folder('x'), b=tfds('mnist')`.

    Raises:
        UserError: If `data` is empty or malformed.
    """
    if not data:
        raise UserError("--data is missing", hint="write --data=FOLDER, a folder with one sub-folder per class")
    if not _NAMED_SPEC.match(data) or _exists(Path(data).expanduser()):
        return {"": infer_source(data)}
    return {name: infer_source(str(spec)) for name, spec in parse_named_specs(data, default="").items()}


def _infer_format(path: Path) -> str:
    if path.is_dir():
        return next((name for name, is_format in _FOLDER_FORMATS.items() if is_format(path)), "folder")
    if path.name in yolo.SETTINGS_FILES:
        return "yolo"
    if path.suffix.lower() == ".json" and is_coco_file(path):
        return "coco"
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        hint = "unpack an archive first"
        raise UserError("Neither a folder nor a table", got=path, expected=_TABLE_SUFFIXES, hint=hint)
    return "table"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a spec may be longer than the longest file name
        return False
