"""Sections of benchmarks/RESULTS.md, each written by its benchmark."""

import platform
import re
import sys
from pathlib import Path

from tfx_finetune.core import hardware

RESULTS = Path(__file__).parent / "RESULTS.md"
_OPENING = """# Results
Each section is what one command of this folder wrote. Machines differ and are noisy: look at the ratios.
"""


def record(name: str, title: str, text: str) -> None:
    """Print a section, and replace the section of the same benchmark in the file.

    Args:
        name: Name of the benchmark, with the flags that change the measurement.
        title: Heading of the section.
        text: Markdown.
    """
    print(text)
    found = hardware.detect()
    machine = f"{found.threads} CPU cores ({platform.machine()}), {'no GPU' if found.device == 'cpu' else found.device}"
    section = f"<!-- {name} -->\n## {title}\n{machine}.\n\n{text}\n<!-- end -->\n"
    page = RESULTS.read_text() if RESULTS.exists() else _OPENING
    known = re.compile(rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->\n", re.DOTALL)
    page = known.sub(lambda _: section, page) if known.search(page) else f"{page}\n{section}"
    RESULTS.write_text(page)


def said(name: str) -> str:
    """Return the value of a flag of a benchmark, such as `--seeds`; empty if the flag is not given."""
    return next((flag.partition("=")[2] for flag in sys.argv[1:] if flag.startswith(f"{name}=")), "")


def unseeded() -> list[str]:
    """Return the command line without `--seeds`, because the number of repeats does not identify a measurement."""
    return [flag for flag in sys.argv if not flag.startswith("--seeds=")]
