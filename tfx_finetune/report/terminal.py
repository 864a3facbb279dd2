"""What a run found out, in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tfx_finetune.core import hardware
from tfx_finetune.deploy.checks import Check
from tfx_finetune.deploy.selection import BEST
from tfx_finetune.deploy.verify import score
from tfx_finetune.evaluation import slices
from tfx_finetune.evaluation.records import Subset
from tfx_finetune.types.components import Task
from tfx_finetune.types.plan import Plan


def say_result(
    plan: Plan,
    scores: Mapping[str, Any],
    tasks: Mapping[str, Task],
    parts: Sequence[Subset],
    checks: Sequence[Check],
    chosen: Check | None,
    gaps: Sequence[slices.Gap] = (),
) -> None:
    """Prints the scores and the table of files, and where everything lies."""
    console = Console(stderr=True, highlight=False)
    known = (f"{head}/{task.score}" for head, task in tasks.items())
    named = "  ".join(f"{name} {scores[name]:.4f}" for name in known if name in scores)
    if parts:
        console.print(_subsets(tasks, parts))
    title, threads = f"trained model on the test split: {named}", hardware.detect().threads
    grid = Grid(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("file")
    for column in ("score", "drop", "same", "ms at 1", f"at {threads}", "MB", "zipped", "RAM", "float", "verified"):
        grid.add_column(column, justify="right")
    for c in checks:
        speed = "-" if c.latency_one is None else f"{c.latency_one:.1f}", f"{c.latency:.1f}"
        sizes = f"{c.bytes / 1e6:.1f}", f"{c.zipped / 1e6:.1f}", "-" if c.memory is None else f"{c.memory:.0f}"
        floats = "-" if c.operators is None else f"{c.floats}/{c.operators}"
        rates = f"{c.score:.3f}", f"{c.drop:+.3f}", f"{c.agreement:.1%}"
        grid.add_row(c.format, *rates, *speed, *sizes, floats, "no" if c.reason else "yes")
    console.print(grid)
    for gap in gaps:
        console.print(str(gap), soft_wrap=True)
    for c in checks:
        if c.float_layers:
            console.print(f"{c.format} computes in float in {c.named_floats}", soft_wrap=True)
    if chosen:
        console.print(f"fits best: {chosen.format}, as {BEST}")
    console.print(f"bundle: {plan.workdir / 'bundle'}\nreport: {plan.workdir / 'report.html'}", soft_wrap=True)


def _subsets(tasks: Mapping[str, Task], parts: Sequence[Subset]) -> Grid:
    """The table of scores by what the model is shown."""
    grid = Grid(title="what it is shown", title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("towers")
    for column in ("score", "samples"):
        grid.add_column(column, justify="right")
    for part in parts:
        grid.add_row(" + ".join(part.towers), f"{score(tasks, part.scores):.3f}", str(part.samples))
    return grid
