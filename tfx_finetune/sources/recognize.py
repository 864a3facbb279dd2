"""What `--data` means: a path is recognized by its layout, anything else is a source spec."""

from pathlib import Path

from tfx_finetune.contracts import SOURCES
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.sources.idx import FILES

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def recognize(data: str) -> Spec:
    """Returns the source spec of a path or of a spec string; reads no sample.

    Raises:
        UserError: It is neither, or names an unknown source or option.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        has_idx = any((path / f"{name}{ending}").is_file() for name in FILES["train"] for ending in ("", ".gz"))
        return Spec("idx" if has_idx else "folder", (data,))
    if path.is_file():
        if path.suffix.lower() not in _TABLES:
            raise UserError("not a table", received=data, allowed=_TABLES)
        return Spec("table", (data,))
    if not data.rstrip().endswith(")") and data not in SOURCES:
        near = did_you_mean(data, SOURCES)
        raise UserError("no such folder or file", received=data, todo=near or "is the path right?")
    spec = parse_spec(data)
    SOURCES.options(spec)
    return spec
