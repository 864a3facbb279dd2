"""What a run found out, in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tfx_finetune.core import hardware
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.selection import BEST_FILE
from tfx_finetune.deploy.verify import compute_mean_score
from tfx_finetune.evaluation import slices
from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.types.components import Task
from tfx_finetune.types.plan import Plan


def print_result(
    plan: Plan,
    scores: Mapping[str, Any],
    tasks: Mapping[str, Task],
    ablations: Sequence[ModalityAblation],
    results: Sequence[VerificationResult],
    selected: VerificationResult | None,
    worst_groups: Sequence[slices.WorstGroup] = (),
) -> None:
    """Prints the scores and the table of files, and where everything lies."""
    console = Console(stderr=True, highlight=False)
    known = (f"{head}/{task.monitor}" for head, task in tasks.items())
    named = "  ".join(f"{name} {scores[name]:.4f}" for name in known if name in scores)
    if ablations:
        console.print(_make_ablation_table(tasks, ablations))
    title, threads = f"trained model on the test split: {named}", hardware.detect().threads
    grid = Grid(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("file")
    for column in ("score", "drop", "same", "ms at 1", f"at {threads}", "MB", "zipped", "RAM", "float", "verified"):
        grid.add_column(column, justify="right")
    for c in results:
        speed = "-" if c.latency_1_thread is None else f"{c.latency_1_thread:.1f}", f"{c.latency:.1f}"
        sizes = (
            f"{c.bytes / 1e6:.1f}",
            f"{c.compressed_bytes / 1e6:.1f}",
            "-" if c.memory is None else f"{c.memory:.0f}",
        )
        floats = "-" if c.total_ops is None else f"{c.float_ops}/{c.total_ops}"
        rates = f"{c.score:.3f}", f"{c.score_drop:+.3f}", f"{c.agreement:.1%}"
        grid.add_row(c.format, *rates, *speed, *sizes, floats, "no" if c.failure_reason else "yes")
    console.print(grid)
    for gap in worst_groups:
        console.print(str(gap), soft_wrap=True)
    for c in results:
        if c.float_layers:
            console.print(f"{c.format} computes in float in {c.float_layers_text}", soft_wrap=True)
    if selected:
        console.print(f"fits best: {selected.format}, as {BEST_FILE}")
    console.print(f"bundle: {plan.workdir / 'bundle'}\nreport: {plan.workdir / 'report.html'}", soft_wrap=True)


def _make_ablation_table(tasks: Mapping[str, Task], ablations: Sequence[ModalityAblation]) -> Grid:
    """The table of scores by what the model is shown."""
    grid = Grid(title="what it is shown", title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("towers")
    for column in ("score", "samples"):
        grid.add_column(column, justify="right")
    for part in ablations:
        grid.add_row(" + ".join(part.towers), f"{compute_mean_score(tasks, part.scores):.3f}", str(part.samples))
    return grid
