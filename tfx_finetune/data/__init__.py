"""Data set audit: duplicates, split leakage, label errors and outliers; the steps of the `data` command."""
