"""Pruning, clustering and quantization-aware training through tf_keras."""

from __future__ import annotations

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_specs
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression

_ORDER = ("prune", "cluster", "qat")


def parse_compressions(specs: str) -> dict[str, Compression]:
    """Build the compressions of `--compress`.

    A compression preserves the result of the compressions before it, which requires the order pruning, clustering,
    quantization. Compressions of plug-ins may come anywhere.

    Args:
        specs: Specs separated by commas, such as `prune(), qat()`.

    Returns:
        Compressions by spec.

    Raises:
        UserError: If a spec is invalid, or the order is another one.
    """
    parsed = parse_specs(specs)
    compressions = {str(spec): COMPRESSIONS.build(spec) for spec in parsed}
    names = [spec.name for spec in parsed]
    ordered = [name for name in _ORDER if name in names]
    if [name for name in names if name in _ORDER] != ordered or len(set(names)) < len(names):
        expected = "prune(), cluster(), qat() in this order, each at most once"
        raise UserError("--compress has an invalid order", got=", ".join(names), expected=expected)
    return compressions
