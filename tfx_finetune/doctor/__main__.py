"""COMMAND: whether this environment can train, export and verify, and what to do where it cannot.

    python -m tfx_finetune.doctor

prints a line for each thing that it looks at. Exit status: 0 training works here, 2 something that it needs is broken.
"""

import sys
from dataclasses import dataclass, field

from tfx_finetune.core import assets
from tfx_finetune.core.config import CacheOptions
from tfx_finetune.doctor import assets as stock
from tfx_finetune.doctor import machine, requirements, selftest
from tfx_finetune.doctor.diagnosis import Diagnosis, run_check

_COLORS = {"ok": "green", "optional": "blue", "warning": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class DoctorOptions:
    """Options of the command: the cache that runs will use."""

    cache: CacheOptions = field(default_factory=CacheOptions)


def doctor(options: DoctorOptions) -> None:
    """Prints what was found, and exits with status 2 where something is broken."""
    found = check_all(options)
    print_diagnoses(found)
    if any(one.state == "broken" for one in found):
        sys.exit(2)


def check_all(options: DoctorOptions) -> list[Diagnosis]:
    """Looks at everything, the quick things while TensorFlow is being imported."""
    assets.set_cache_dir(options.cache.dir)
    test = selftest.start_selftest()
    quick = [
        *run_check("packages", requirements.check_all, "broken"),
        *run_check("machine", lambda: [machine.check_processors()]),
        *run_check("disk", lambda: [machine.check_disk_space()]),
        *run_check("cache", lambda: [machine.check_cache(options.cache.max_bytes)]),
        *run_check("weights and data", stock.check_all),
    ]
    tried = selftest.wait_for_results(test)
    usable = None if "error" in tried["tensorflow"] else tried["tensorflow"]
    return [*quick, *selftest.make_diagnoses(tried), *run_check("GPU", lambda: [machine.check_gpu(usable)])]


def print_diagnoses(found: list[Diagnosis]) -> None:
    """Prints a line for each, what to do below it, and what it comes to."""
    rows = [(one.state, one.subject, one.message + f"\n-> {one.hint}" * bool(one.hint)) for one in found]
    try:
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text
    except ImportError:  # one of the findings
        print("\n".join("  ".join(row) for row in rows), summarize(found), sep="\n\n")
        return
    grid = Grid(show_header=False, box=None, padding=(0, 1, 0, 0))
    for state, *texts in rows:
        grid.add_row(Text(state, _COLORS[state]), *map(Text, texts))
    console = Console(highlight=False)
    console.print(grid)
    console.print(f"\n{summarize(found)}", markup=False, soft_wrap=True)


def summarize(found: list[Diagnosis]) -> str:
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
        doctor(DoctorOptions())
    else:
        command.run(doctor, DoctorOptions(), __doc__ or "", needs_tensorflow=False)


if __name__ == "__main__":
    main()
