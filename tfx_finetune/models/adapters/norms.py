"""Normalization alone (Frankle, Schwab and Morcos, Training BatchNorm and Only BatchNorm, arXiv 2003.00152)."""

from tfx_finetune.models.adapters.bitfit import set_trainable_by_name
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Adapter


@ADAPTERS.register
def norms() -> Adapter:
    """Trains scales and offsets of normalization; the means and variances that it has learned stay."""
    return Adapter(lambda layers: set_trainable_by_name(layers, ("gamma", "beta")), lambda layers: None)
