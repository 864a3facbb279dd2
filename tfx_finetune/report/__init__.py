"""Report of a run: the page report.html and the summary in the terminal."""
