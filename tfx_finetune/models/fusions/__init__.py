"""How several towers become one.

Pooled features (batch, dim) of each tower come in, and which of them have something to see, (batch, towers); what is
absent makes no difference.
"""

from tfx_finetune.models.fusions import concat, cross_attend, film, gated, late, shared

__all__ = ["concat", "cross_attend", "film", "gated", "late", "shared"]
