"""What `--data` means: a path is recognized by its layout, anything else is a source spec."""

from pathlib import Path

from tfx_finetune.contracts import SOURCES
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.sources import idx, tfds

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


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


def _layout(path: Path) -> str:
    if path.is_dir():
        if idx.find(path, idx.FILES["train"][0]):
            return "idx"
        return "tfds" if tfds.is_prepared(path) else "folder"
    if path.suffix.lower() not in _TABLES:
        raise UserError("neither a folder nor a table", received=path, allowed=_TABLES, todo="unpack an archive first")
    return "table"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # A spec may be longer than any file's name.
        return False
