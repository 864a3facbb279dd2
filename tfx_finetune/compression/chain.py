"""The chain of compressions of a run."""

from __future__ import annotations

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_specs
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression


def parse_compressions(specs: str) -> dict[str, Compression]:
    """The compressions of a run: each once, zeros before clusters before rounding, as each keeps what is before it."""
    listed = parse_specs(specs)
    found = {str(spec): COMPRESSIONS.build(spec) for spec in listed}
    names = [spec.name for spec in listed]
    order = [name for name in ("prune", "cluster", "qat") if name in names]
    known = [name for name in names if name in ("prune", "cluster", "qat")]
    if known != order or len(set(names)) < len(names):
        allowed = "prune(), cluster(), qat() in this order, each once or not at all"
        raise UserError("--compress has an order that undoes itself", got=", ".join(names), expected=allowed)
    return found
