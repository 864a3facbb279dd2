"""Suppresses the terminal output of other libraries."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def capture_output() -> Iterator[Callable[[], str]]:
    """Capture the output of C++ code, which bypasses the streams of Python; yields a function that returns the text."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.NamedTemporaryFile() as log:
        try:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            yield lambda: Path(log.name).read_text(errors="replace")
        finally:
            for descriptor, original in zip((1, 2), originals, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


@contextlib.contextmanager
def filter_log(logger: str, text: str) -> Iterator[None]:
    """Drop the log records that contain a text."""
    log = logging.getLogger(logger)

    def is_other(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)
