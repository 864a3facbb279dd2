"""Shares of counts, and the rates that are made of them."""

from typing import Any

import numpy as np


def safe_divide(numerator: Any, denominator: Any) -> np.ndarray:
    """Part of the whole, of counts of one shape; 0 where there is no whole."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


def precision_recall_f1(true_positives: Any, predicted: Any, support: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; what divides by zero is 0.

    Args:
        hits: How often something was said and is so, in all or by class.
        said: How often it was said.
        support: How often it is so.
    """
    return (
        safe_divide(true_positives, predicted),
        safe_divide(true_positives, support),
        safe_divide(2 * true_positives, predicted + support),
    )
