"""Progress of a run: a bar with the remaining time on a terminal, else one line per stage."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_console = Console(stderr=True)


def log(line: str) -> None:
    """Print a line to standard error, above the progress bar."""
    _console.print(line, markup=False, highlight=False, soft_wrap=True)


def shorten_list(names: Iterable[str], max_items: int = 6) -> str:
    """Return names separated by commas; after `max_items` names, the number of the remaining ones.

    Examples:
        >>> shorten_list("abcd", max_items=2)
        'a, b and 2 more'
    """
    items = list(names)
    remaining = len(items) - max_items
    return ", ".join(items[:max_items]) + (f" and {remaining} more" if remaining > 0 else "")


@contextlib.contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show the progress of a stage.

    Args:
        title: Name of the stage.
        total: Number of steps; None if it is unknown.

    Yields:
        Function `advance(steps=1, note="")` that moves the bar forward and shows the note beside it.
    """
    started, last_note = time.monotonic(), ""
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    remaining = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    progress = Progress(*columns, *remaining, console=_console, transient=True, disable=not sys.stderr.isatty())

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal last_note
        last_note = note or last_note
        progress.update(task, advance=steps, note=last_note)

    with progress:
        task = progress.add_task(title, total=total, note="")
        yield advance
    log(f"{title:<9} {time.monotonic() - started:6.1f} s  {last_note}".rstrip())
