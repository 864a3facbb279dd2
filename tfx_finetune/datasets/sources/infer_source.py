"""What `--data` and `--sources` mean: a path is recognized by its layout, anything else is a source spec."""

from collections.abc import Callable
from pathlib import Path

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec
from tfx_finetune.datasets.sources import coco, idx, masks, tfds, voc, yolo
from tfx_finetune.datasets.sources.coco_file import is_coco
from tfx_finetune.types.components import SOURCES

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_FOLDERS: dict[str, Callable[[Path], bool]] = {
    "idx": lambda path: idx.find(path, idx.FILES["train"][0]) is not None,
    "tfds": tfds.is_prepared,
    "coco": coco.is_folder,
    "voc": voc.is_folder,
    "yolo": yolo.is_folder,
    "masks": masks.is_folder,
}


def recognize(data: str) -> Spec:
    """Returns the source spec of a path or of a spec string; reads no sample.

    Raises:
        UserError: It is neither, or names an unknown source or option.
    """
    path = Path(data).expanduser()
    if _exists(path):
        return Spec(_layout(path), (data,))
    if not data.rstrip().endswith(")") and data not in SOURCES:
        near = did_you_mean(data, SOURCES)
        raise UserError("no such folder or file", received=data, todo=near or "is the path right?")
    spec = parse_spec(data)
    for option in SOURCES.options(spec).values():
        if isinstance(option, Spec):
            recognize(str(option))
    return spec


def named_sources(data: str, sources: str) -> dict[str, Spec]:
    """Where the samples of a run come from, by name; a lone one, of `--data`, has none.

    Raises:
        UserError: Neither is given, or both, or what is given is not understood.
    """
    if data and sources:
        received = f"--data={data}, --sources={sources}"
        raise UserError("--data and --sources are two ways to say one thing", received=received, todo="say one of them")
    if data:
        return {"": recognize(data)}
    if not sources:
        raise UserError("no data given", todo="say --data=FOLDER, with a sub-folder for each class")
    named = parse_named_specs(sources, default="")
    if not named or "" in named:
        raise UserError("--sources wants names", received=sources, allowed="a=folder('x'), b=tfds('mnist')")
    return {name: recognize(str(spec)) for name, spec in named.items()}


def _layout(path: Path) -> str:
    if path.is_dir():
        return next((name for name, is_such in _FOLDERS.items() if is_such(path)), "folder")
    if path.name in yolo.SETTINGS:
        return "yolo"
    if path.suffix.lower() == ".json" and is_coco(path):
        return "coco"
    if path.suffix.lower() not in _TABLES:
        raise UserError("neither a folder nor a table", received=path, allowed=_TABLES, todo="unpack an archive first")
    return "table"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # A spec may be longer than any file's name.
        return False
