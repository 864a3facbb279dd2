"""The report of a run, as a page and in the terminal."""
