"""Keeps from the terminal what others write there and our user need not read."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def capture_output() -> Iterator[Callable[[], str]]:
    """Keeps what C++ code writes to the terminal, past Python's streams; yields a function that returns it."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.NamedTemporaryFile() as log:
        try:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            yield lambda: Path(log.name).read_text(errors="replace")
        finally:
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


@contextlib.contextmanager
def filter_log(logger: str, text: str) -> Iterator[None]:
    """Keeps lines that have a text out of a log."""
    log = logging.getLogger(logger)

    def wanted(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)
