"""How several towers become one."""

from tfx_finetune.fusions import concat, cross_attend, film, gated, late, shared

__all__ = ["concat", "cross_attend", "film", "gated", "late", "shared"]
