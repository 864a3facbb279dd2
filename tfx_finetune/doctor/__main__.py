"""Check that this environment can train, export and verify.

    python -m tfx_finetune.doctor

The command prints one line per check, with a fix for each problem. Exit status: 0 success, 2 a check failed.
"""

import sys
from dataclasses import dataclass, field

from tfx_finetune.core import assets
from tfx_finetune.core.config import CacheOptions
from tfx_finetune.doctor import asset_checks, machine, requirements, selftest
from tfx_finetune.doctor.diagnosis import Diagnosis, run_check

_COLORS = {"ok": "green", "optional": "blue", "warning": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class DoctorOptions:
    """Options of the command."""

    cache: CacheOptions = field(default_factory=CacheOptions)


def doctor(options: DoctorOptions) -> None:
    """Print all diagnoses, and exit with status 2 if something is broken."""
    diagnoses = check_all(options)
    print_diagnoses(diagnoses)
    if any(diagnosis.state == "broken" for diagnosis in diagnoses):
        sys.exit(2)


def check_all(options: DoctorOptions) -> list[Diagnosis]:
    """Run all checks; the quick ones run while TensorFlow is imported."""
    assets.set_cache_dir(options.cache.dir)
    test = selftest.start_selftest()
    diagnoses = [
        *run_check("packages", requirements.check_all, "broken"),
        *run_check("machine", lambda: [machine.check_processors()]),
        *run_check("disk", lambda: [machine.check_disk_space()]),
        *run_check("cache", lambda: [machine.check_cache(options.cache.max_bytes)]),
        *run_check("weights and data", asset_checks.check_all),
    ]
    results = selftest.wait_for_results(test)
    tensorflow_info = None if "error" in results["tensorflow"] else results["tensorflow"]
    gpu = run_check("GPU", lambda: [machine.check_gpu(tensorflow_info)])
    return [*diagnoses, *selftest.make_diagnoses(results), *gpu]


def print_diagnoses(diagnoses: list[Diagnosis]) -> None:
    """Print one line per diagnosis, its hint below it, and a summary."""
    rows = [(d.state, d.subject, d.message + f"\n-> {d.hint}" * bool(d.hint)) for d in diagnoses]
    try:
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text
    except ImportError:  # rich is one of the missing packages
        print("\n".join("  ".join(row) for row in rows), summarize(diagnoses), sep="\n\n")
        return
    grid = Grid(show_header=False, box=None, padding=(0, 1, 0, 0))
    for state, *texts in rows:
        grid.add_row(Text(state, _COLORS[state]), *map(Text, texts))
    console = Console(highlight=False)
    console.print(grid)
    console.print(f"\n{summarize(diagnoses)}", markup=False, soft_wrap=True)


def summarize(diagnoses: list[Diagnosis]) -> str:
    """Return a summary of all diagnoses in one line."""
    broken, warnings = (sum(d.state == state for d in diagnoses) for state in ("broken", "warning"))
    if broken:
        return f"Training does not work here yet: correct the {broken} broken lines above."
    if warnings:
        return f"Training works here, with {warnings} warning{'s' * (warnings > 1)} above."
    return "Training works here: python -m tfx_finetune.train --data=photos/"


def main() -> None:
    """Run the command; without flags if the package that parses them is missing."""
    try:
        from tfx_finetune.core import command
    except ImportError:
        doctor(DoctorOptions())
    else:
        command.run(doctor, DoctorOptions(), __doc__ or "", needs_tensorflow=False)


if __name__ == "__main__":
    main()
