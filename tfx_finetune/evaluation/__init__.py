"""Scores of predictions, their confidence intervals, and scores of slices."""
