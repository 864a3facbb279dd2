"""COMMAND: whether this environment can train, export and verify, and what to do where it cannot.

    python -m tfx_finetune.doctor

prints a line for each thing that it looks at. Exit status: 0 training works here, 2 something that it needs is broken.
"""

import sys
from dataclasses import dataclass, field

from tfx_finetune.core import assets
from tfx_finetune.core.config import Cache
from tfx_finetune.doctor import assets as stock
from tfx_finetune.doctor import machine, requirements, selftest
from tfx_finetune.doctor.diagnosis import Diagnosis, examined

_COLOURS = {"ok": "green", "optional": "blue", "warning": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Doctor:
    """Options of the command: the cache that runs will use."""

    cache: Cache = field(default_factory=Cache)


def doctor(options: Doctor) -> None:
    """Prints what was found, and exits with status 2 where something is broken."""
    found = diagnoses(options)
    show(found)
    if any(one.state == "broken" for one in found):
        sys.exit(2)


def diagnoses(options: Doctor) -> list[Diagnosis]:
    """Looks at everything, the quick things while TensorFlow is being imported."""
    assets.use_cache(options.cache.dir)
    test = selftest.start()
    quick = [
        *examined("packages", requirements.diagnoses, "broken"),
        *examined("machine", lambda: [machine.processors()]),
        *examined("disk", lambda: [machine.room()]),
        *examined("cache", lambda: [machine.cache(options.cache.max_bytes)]),
        *examined("weights and data", stock.diagnoses),
    ]
    tried = selftest.finished(test)
    usable = None if "error" in tried["tensorflow"] else tried["tensorflow"]
    return [*quick, *selftest.diagnoses(tried), *examined("GPU", lambda: [machine.gpu(usable)])]


def show(found: list[Diagnosis]) -> None:
    """Prints a line for each, what to do below it, and what it comes to."""
    rows = [(one.state, one.what, one.found + f"\n-> {one.todo}" * bool(one.todo)) for one in found]
    try:
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text
    except ImportError:  # one of the findings
        print("\n".join("  ".join(row) for row in rows), verdict(found), sep="\n\n")
        return
    grid = Grid(show_header=False, box=None, padding=(0, 1, 0, 0))
    for state, *texts in rows:
        grid.add_row(Text(state, _COLOURS[state]), *map(Text, texts))
    console = Console(highlight=False)
    console.print(grid)
    console.print(f"\n{verdict(found)}", markup=False, soft_wrap=True)


def verdict(found: list[Diagnosis]) -> str:
    """What it all comes to, in a line."""
    broken, warnings = (sum(one.state == state for one in found) for state in ("broken", "warning"))
    if broken:
        return f"Training does not work here yet: {broken} broken, to be mended as said above."
    if warnings:
        return f"Training works here; {warnings} warning{'s' * (warnings > 1)} above, worth a look."
    return "Training works here: python -m tfx_finetune.train --data=photos/"


def main() -> None:
    """Runs the command, without flags where the package that reads them is missing."""
    try:
        from tfx_finetune.core import command
    except ImportError:
        doctor(Doctor())
    else:
        command.run(doctor, Doctor(), __doc__ or "", tensorflow=False)


if __name__ == "__main__":
    main()
