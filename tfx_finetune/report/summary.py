"""Collect the content of report.html from the result of a run."""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import flagfile
from tfx_finetune.datasets.filters import select_head_samples
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.manifest import describe_environment
from tfx_finetune.deploy.verify import compute_mean_score
from tfx_finetune.evaluation import slices
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.intervals import wilson_interval
from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.evaluation.scores import mask_labeled
from tfx_finetune.report import head_results, page
from tfx_finetune.report.examples import collect_examples
from tfx_finetune.report.page import MAX_MISTAKES
from tfx_finetune.tasks.outputs import select_head_outputs
from tfx_finetune.training.checkpoint import History
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, SamplePreview
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.task import Task


@dataclass(frozen=True)
class RunResult:
    """Result of a training run.

    Attributes:
        histories: Training history of each phase.
        test: Prepared test samples.
        reference: (targets, decoded outputs) of the trained model on the test samples.
        scores: Test scores of the trained model, `<head>/<metric>`.
        ablations: Scores for every subset of the inputs; empty for a model with one tower.
        gate_weights: float array (n, towers). Gate weights of each test sample; None without sample-dependent gates.
        results: Verification result of each exported file.
        selected: Verification result of the file that `--constraints` selected; None if no file meets them.
        bundle: Bundle with the exported files.
        continual_metrics: Scores of sequential training; None for other strategies.
    """

    histories: Sequence[History]
    test: FeatureStore
    reference: tuple[Batch, Batch]
    scores: Mapping[str, Any]
    ablations: Sequence[ModalityAblation]
    gate_weights: np.ndarray | None
    results: Sequence[VerificationResult]
    selected: VerificationResult | None
    bundle: Bundle
    continual_metrics: ContinualMetrics | None


def make_report(plan: Plan, data: Data, result: RunResult) -> page.Report:
    """Collect the content of report.html.

    Args:
        plan: Plan of the run.
        data: Data of the run.
        result: Result of the run.
    """
    targets, outputs = result.reference
    manifest = result.bundle.manifest
    gate_weights = (
        {}
        if result.gate_weights is None
        else dict(zip(data.modalities, result.gate_weights.mean(0).tolist(), strict=True))
    )
    heads = _make_head_results(data, result)
    return page.Report(
        title=data.source.name,
        command=flagfile.format_command(plan.workdir / "run.cfg"),
        config="\n".join(flagfile.format_flags(plan.run)),
        created=datetime.datetime.now().isoformat(" ", timespec="minutes"),
        seconds=sum(history.seconds for history in result.histories),
        environment=describe_environment(),
        seed=plan.run.seed,
        headline=_make_headline(data, result, heads),
        data=_summarize_data(data, plan.heads_by),
        phases=tuple(
            page.PhaseResult(
                history.phase,
                history.seconds,
                history.trained_parameters,
                history.parameters,
                history.metrics,
                history.best_epoch,
                history.selection,
            )
            for history in result.histories
        ),
        heads=heads,
        mistakes=tuple(
            mistake
            for head in data.tasks
            if not data.tasks[head].l2_to_shared and not data.tasks[head].localization
            for mistake in _collect_mistakes(data, head, result)
        ),
        examples=tuple(collect_examples(data, result.test, targets, outputs)),
        slices=slices.collect_slice_results(data, result.scores, manifest["tokenizer_fertility"])
        + slices.collect_retrieval_results(data.tasks, result.scores, len(result.test)),
        worst_groups=slices.find_worst_groups(data.table, data.tasks, result.scores),
        ablations=tuple(
            page.AblationRow(ablation.towers, ablation.samples, compute_mean_score(data.tasks, ablation.scores))
            for ablation in result.ablations
        ),
        gate_weights=gate_weights,
        continual_metrics=result.continual_metrics,
        exports=tuple(page.ExportRow(file, result.bundle.get_path(file.format).name) for file in result.results),
        selected_format=manifest.get("selected_format", ""),
    )


def _make_headline(data: Data, result: RunResult, heads: Sequence[head_results.HeadResult]) -> page.HeadlineScore:
    """Return the headline: the main metric of the only head, or the mean over heads, which has no interval."""
    task, *other_tasks = data.tasks.values()
    return page.HeadlineScore(
        score=compute_mean_score(data.tasks, result.scores),
        metric="mean score" if other_tasks else task.monitor,
        samples=len(result.test),
        unit=next(iter(data.modalities.values())).unit if len(data.modalities) == 1 else "samples",
        interval=heads[0].interval if heads and not other_tasks else None,
    )


def _summarize_data(data: Data, heads_by: str) -> page.DataSummary:
    """Count the samples of each split and class, the skipped samples and the duplicates."""
    table = data.table
    classes = {}
    for head, task in data.tasks.items():
        if task.l2_to_shared:
            continue
        head_table = select_head_samples(table, task, head, heads_by)
        labels = table.columns[task.column]
        counts = [
            Counter(name for label in labels[head_table.split == split] for name in set(label.split(LABEL_SEPARATOR)))
            for split in SPLITS
        ]
        classes[head] = tuple(page.ClassCount(name, *(count[name] for count in counts)) for name in task.labels.names)
    digests = table.digest[table.split != ""]
    return page.DataSummary(
        source=data.source.name,
        splits={split: table.size(split) for split in SPLITS},
        classes=classes,
        skipped_samples=tuple(table.errors),
        num_duplicates=len(digests) - len(set(digests)),
        warnings=table.warnings,
    )


def _make_head_results(data: Data, result: RunResult) -> tuple[head_results.HeadResult, ...]:
    """Return the test results of every head that has test samples."""
    targets, outputs = result.reference
    groups = data.table.columns["group"][data.table.split == "test"]
    return tuple(
        _make_head_result(head, task, result.scores, targets[head], outputs[f"{head}/scores"], groups)
        for head, task in data.tasks.items()
        # Heads of one language that share weights have a row in the table of languages instead.
        if not task.l2_to_shared and f"{head}/{task.monitor}" in result.scores
    )


def _make_head_result(
    head: str, task: Task, scores: Mapping[str, Any], targets: np.ndarray, outputs: np.ndarray, groups: np.ndarray
) -> head_results.HeadResult:
    """Return the test results of one head."""
    metrics = select_head_outputs(scores, head)
    is_labeled = mask_labeled(task, targets)
    per_class = [head_results.ClassScore(name, **values) for name, values in metrics["per_class"].items()]
    return head_results.HeadResult(
        name=head,
        monitor=task.monitor,
        # Names with a bracket, such as accuracy[es], are scores of one language or source.
        scores={name: value for name, value in metrics.items() if isinstance(value, float) and "[" not in name},
        # The score of a detection or segmentation head is no mean over images.
        interval=None
        if task.localization
        else wilson_interval(task.per_sample_score(targets, outputs)[is_labeled], groups[is_labeled]),
        classes=task.labels.names,
        confusion=np.asarray(metrics["confusion"]) if "confusion" in metrics else None,
        per_class=tuple(per_class),
        curves=metrics.get("curves", {}),
        count_unit="pixels" if task.localization and "confusion" in metrics else "",
    )


def _collect_mistakes(data: Data, head: str, result: RunResult) -> list[page.Mistake]:
    """Return the misclassified test samples of a head, highest probability first."""
    task, gate_weights = data.tasks[head], result.gate_weights
    targets, scores = result.reference[0][head], result.reference[1][f"{head}/scores"]
    names = np.array(task.labels.names, dtype=object)
    is_test = data.table.split == "test"
    files = data.table.file[is_test]
    languages = data.table.columns.get("language", np.full(len(is_test), "", object))[is_test]
    rows = np.flatnonzero(mask_labeled(task, targets) & (task.per_sample_score(targets, scores) < 1))
    rows = rows[np.argsort(-scores[rows].max(-1))][:MAX_MISTAKES]
    previews = _load_previews(data, result.test, rows)
    mistakes = []
    for row in rows.tolist():
        label = task.format_prediction(scores[row])["label"]
        top_classes = np.argsort(-scores[row])[:3]
        mistakes.append(
            page.Mistake(
                previews=previews[row],
                file=str(files[row]),
                truth=tuple(names[targets[row] > 0.5]),
                predicted=tuple(label) if isinstance(label, list) else (label,),
                score=float(scores[row].max()),
                top_scores=tuple((str(names[i]), float(scores[row][i])) for i in top_classes),
                head=head,
                gate_weights={}
                if gate_weights is None
                else dict(zip(data.modalities, gate_weights[row].tolist(), strict=True)),
                language=str(languages[row]),
            )
        )
    return mistakes


def _load_previews(data: Data, test: FeatureStore, test_rows: np.ndarray) -> dict[int, tuple[SamplePreview, ...]]:
    """Return previews of test samples by their row in the test split, one preview per input."""
    rows = np.sort(test_rows)
    mask = np.zeros(len(data.table.split), bool)
    mask[np.flatnonzero(data.table.split == "test")[rows]] = True
    return {
        row: tuple(
            modality.preview(contents[tower], np.asarray(test.inputs[0][tower][row]))
            for tower, modality in data.modalities.items()
            if contents[tower]
        )
        for row, contents in zip(rows.tolist(), data.read_raw_contents(mask), strict=True)
    }
