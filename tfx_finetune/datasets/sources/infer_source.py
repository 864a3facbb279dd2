"""What `--data` and `--sources` mean: a path is recognized by its layout, anything else is a source spec."""

from collections.abc import Callable
from pathlib import Path

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec
from tfx_finetune.datasets.sources import coco, idx, masks, tfds, voc, yolo
from tfx_finetune.datasets.sources.coco_file import is_coco_file
from tfx_finetune.types.components import SOURCES

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
    """Returns the source spec of a path or of a spec string; reads no sample.

    Raises:
        UserError: It is neither, or names an unknown source or option.
    """
    path = Path(data).expanduser()
    if _exists(path):
        return Spec(_infer_format(path), (data,))
    if not data.rstrip().endswith(")") and data not in SOURCES:
        near = did_you_mean(data, SOURCES)
        raise UserError("no such folder or file", got=data, hint=near or "is the path right?")
    spec = parse_spec(data)
    for option in SOURCES.resolve_options(spec).values():
        if isinstance(option, Spec):
            infer_source(str(option))
    return spec


def parse_sources(data: str, sources: str) -> dict[str, Spec]:
    """Where the samples of a run come from, by name; a lone one, of `--data`, has none.

    Raises:
        UserError: Neither is given, or both, or what is given is not understood.
    """
    if data and sources:
        received = f"--data={data}, --sources={sources}"
        raise UserError("--data and --sources are two ways to say one thing", got=received, hint="say one of them")
    if data:
        return {"": infer_source(data)}
    if not sources:
        raise UserError("no data given", hint="say --data=FOLDER, with a sub-folder for each class")
    named = parse_named_specs(sources, default="")
    if not named or "" in named:
        raise UserError("--sources wants names", got=sources, expected="a=folder('x'), b=tfds('mnist')")
    return {name: infer_source(str(spec)) for name, spec in named.items()}


def _infer_format(path: Path) -> str:
    if path.is_dir():
        return next((name for name, is_such in _FOLDER_FORMATS.items() if is_such(path)), "folder")
    if path.name in yolo.SETTINGS_FILES:
        return "yolo"
    if path.suffix.lower() == ".json" and is_coco_file(path):
        return "coco"
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        raise UserError(
            "neither a folder nor a table", got=path, expected=_TABLE_SUFFIXES, hint="unpack an archive first"
        )
    return "table"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # A spec may be longer than any file's name.
        return False
