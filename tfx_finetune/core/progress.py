"""Progress on the terminal: a bar with the time left, or one plain line a stage where there is no terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_console = Console(stderr=True)


def log(line: str) -> None:
    """Prints one line to standard error, above any bar."""
    _console.print(line, markup=False, highlight=False, soft_wrap=True)


def shorten_list(names: Iterable[str], max_items: int = 6) -> str:
    """Names as a list, at most so many, then the number of those left out."""
    every = list(names)
    left = len(every) - max_items
    return ", ".join(every[:max_items]) + (f" and {left} more" if left > 0 else "")


@contextlib.contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Shows the progress of a stage.

    Args:
        title: What the stage does.
        total: Steps in all, None where that is not known.

    Yields:
        `advance(steps=1, note="")`, to be called as steps are done; the note stands beside the bar.
    """
    started, last = time.monotonic(), ""
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    progress = Progress(*columns, *left, console=_console, transient=True, disable=not sys.stderr.isatty())

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal last
        last = note or last
        progress.update(task, advance=steps, note=last)

    with progress:
        task = progress.add_task(title, total=total, note="")
        yield advance
    log(f"{title:<9} {time.monotonic() - started:6.1f} s  {last}".rstrip())
