"""Prints the result of a run to the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from tfx_finetune.core import hardware
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.selection import BEST_FILE
from tfx_finetune.deploy.verify import compute_mean_score
from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.evaluation.scores import select_monitored_scores
from tfx_finetune.evaluation.slices import WorstGroup
from tfx_finetune.report.summary import RunResult
from tfx_finetune.types.task import Task


def print_result(
    workdir: Path, tasks: Mapping[str, Task], result: RunResult, worst_groups: Sequence[WorstGroup] = ()
) -> None:
    """Print the scores of the trained model, a table of the exported files, and the paths of the results.

    Args:
        workdir: Work folder of the run.
        tasks: Heads by name.
        result: Result of the run.
        worst_groups: Groups with the lowest scores.
    """
    console = Console(stderr=True, highlight=False)
    if result.ablations:
        console.print(_make_ablation_table(tasks, result.ablations))
    monitored = select_monitored_scores(tasks, result.scores)
    scores = "  ".join(f"{name} {value:.4f}" for name, value in monitored.items())
    console.print(_make_file_table(f"trained model on the test split: {scores}", result.results))
    for group in worst_groups:
        console.print(str(group), soft_wrap=True)
    for file in result.results:
        if file.float_layers:
            console.print(f"{file.format} computes in float in {file.float_layers_text}", soft_wrap=True)
    if result.selected:
        console.print(f"selected: {result.selected.format}, as {BEST_FILE}")
    console.print(f"bundle: {workdir / 'bundle'}\nreport: {workdir / 'report.html'}", soft_wrap=True)


def _make_file_table(title: str, results: Sequence[VerificationResult]) -> Grid:
    """Return the table of exported files; `-` stands for values that were not measured."""
    grid = Grid(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("file", no_wrap=True)
    # Line breaks keep the columns narrow, so that the table fits on 80 characters.
    latency = ("ms, 1\nthread", f"ms, {hardware.detect().threads}\nthreads")
    for column in ("score", "drop", "same", *latency, "MB", "MB\nzip", "MB\nRAM", "float\nops", "passed"):
        grid.add_column(column, justify="right")
    for file in results:
        grid.add_row(
            file.format,
            f"{file.score:.3f}",
            f"{file.score_drop:+.3f}",
            f"{file.agreement:.1%}",
            "-" if file.single_thread_latency is None else f"{file.single_thread_latency:.1f}",
            f"{file.latency:.1f}",
            f"{file.bytes / 1e6:.1f}",
            f"{file.compressed_bytes / 1e6:.1f}",
            "-" if file.memory is None else f"{file.memory:.0f}",
            "-" if file.total_ops is None else f"{file.float_ops}/{file.total_ops}",
            "no" if file.failure_reason else "yes",
        )
    return grid


def _make_ablation_table(tasks: Mapping[str, Task], ablations: Sequence[ModalityAblation]) -> Grid:
    """Return the table of scores for every subset of the inputs."""
    grid = Grid(title="inputs", title_justify="left", box=None, padding=(0, 1, 0, 0))
    grid.add_column("towers")
    for column in ("score", "samples"):
        grid.add_column(column, justify="right")
    for ablation in ablations:
        score = compute_mean_score(tasks, ablation.scores)
        grid.add_row(" + ".join(ablation.towers), f"{score:.3f}", str(ablation.samples))
    return grid
