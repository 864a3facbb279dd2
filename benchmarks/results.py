"""Sections of benchmarks/RESULTS.md, each written by its benchmark."""

import platform
import re
import sys
from pathlib import Path

from tfx_finetune.core import hardware

RESULTS = Path(__file__).parent / "RESULTS.md"
_HEADER = """# Results
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
    host = hardware.detect()
    machine = f"{host.threads} CPU cores ({platform.machine()}), {'no GPU' if host.device == 'cpu' else host.device}"
    section = f"<!-- {name} -->\n## {title}\n{machine}.\n\n{text}\n<!-- end -->\n"
    page = RESULTS.read_text() if RESULTS.exists() else _HEADER
    pattern = re.compile(rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->\n", re.DOTALL)
    page = pattern.sub(lambda _: section, page) if pattern.search(page) else f"{page}\n{section}"
    RESULTS.write_text(page)


def get_flag(name: str) -> str:
    """Return the value of a flag of a benchmark, such as `--seeds`; empty if the flag is not given."""
    return next((flag.partition("=")[2] for flag in sys.argv[1:] if flag.startswith(f"{name}=")), "")


def get_argv_without_seeds() -> list[str]:
    """Return the command line without `--seeds`, because the number of repeats does not identify a measurement."""
    return [flag for flag in sys.argv if not flag.startswith("--seeds=")]
