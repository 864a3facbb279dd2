"""Shares of counts, and the rates that are made of them."""

from typing import Any

import numpy as np


def share(part: Any, whole: Any) -> np.ndarray:
    """Part of the whole, of counts of one shape; 0 where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def rates(hits: Any, said: Any, support: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; what divides by zero is 0.

    Args:
        hits: How often something was said and is so, in all or by class.
        said: How often it was said.
        support: How often it is so.
    """
    return share(hits, said), share(hits, support), share(2 * hits, said + support)
