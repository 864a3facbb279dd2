"""The `data` command: duplicates, leaks, label issues and outliers of a data set."""
