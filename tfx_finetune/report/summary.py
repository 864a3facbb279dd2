"""What a run found out, for the bundle's manifest and for report.html."""

import datetime
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
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, SamplePreview, Task
from tfx_finetune.types.plan import Plan


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        histories: What each phase did.
        test: Prepared test samples.
        reference: The trained model's (targets, decoded outputs) on them.
        scores: Every score of the trained model.
        parts: Those for subsets of its towers.
        shares: How much each tower counts for each test sample, (n, towers); None where that is not known.
        checks: What was found about every file.
        chosen: That of the best file within `--constraints`; None where there is none.
        bundle: The files.
        transfer: How languages did that were learned one after another.
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
    """Collects the content of report.html."""
    targets, outputs = result.reference
    bundle = result.bundle.manifest
    shares = (
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
                h.phase, h.seconds, h.trained_parameters, h.parameters, h.metrics, h.best_epoch, h.selection
            )
            for h in result.histories
        ),
        heads=heads,
        mistakes=tuple(
            mistake
            for head in data.tasks
            if not data.tasks[head].l2_to_shared and not data.tasks[head].localization
            for mistake in _collect_mistakes(data, head, result)
        ),
        examples=tuple(collect_examples(data, result.test, targets, outputs)),
        slices=slices.collect_slice_results(data, result.scores, bundle["tokens"])
        + slices.collect_retrieval_results(data.tasks, result.scores, len(result.test)),
        worst_groups=slices.find_worst_groups(data.table, data.tasks, result.scores),
        ablations=tuple(
            page.AblationRow(part.towers, part.samples, compute_mean_score(data.tasks, part.scores))
            for part in result.ablations
        ),
        gate_weights=shares,
        continual_metrics=result.continual_metrics,
        exports=tuple(page.ExportRow(check, result.bundle.get_path(check.format).name) for check in result.results),
        selected_format=bundle.get("best", ""),
    )


def _make_headline(data: Data, result: RunResult, heads: Sequence[head_results.HeadResult]) -> page.HeadlineScore:
    """The score in one line; how far it may be off is known where a head alone is right or wrong about each sample."""
    task, *others = data.tasks.values()
    return page.HeadlineScore(
        score=compute_mean_score(data.tasks, result.scores),
        metric="mean score" if others else task.monitor,
        samples=len(result.test),
        unit=next(iter(data.modalities.values())).unit if len(data.modalities) == 1 else "samples",
        interval=heads[0].interval if heads and not others else None,
    )


def _summarize_data(data: Data, heads_by: str) -> page.DataSummary:
    table = data.table
    classes = {}
    for head, task in data.tasks.items():
        if task.l2_to_shared:
            continue
        mine = select_head_samples(table, task, head, heads_by)
        sides = {split: mine.split == split for split in SPLITS}
        values = [set(value.split(LABEL_SEPARATOR)) for value in table.columns[task.column]]
        has = {name: np.array([name in value for value in values]) for name in task.labels.names}
        classes[head] = tuple(
            page.ClassCount(name, *(int((has[name] & sides[split]).sum()) for split in SPLITS))
            for name in task.labels.names
        )
    used = table.digest[table.split != ""]
    return page.DataSummary(
        source=data.source.name,
        splits={split: table.size(split) for split in SPLITS},
        classes=classes,
        skipped_samples=tuple(table.errors),
        num_duplicates=len(used) - len(set(used)),
        warnings=table.warnings,
    )


def _make_head_results(data: Data, result: RunResult) -> tuple[head_results.HeadResult, ...]:
    targets, outputs = result.reference
    groups = data.table.columns["group"][data.table.split == "test"]
    return tuple(
        _make_head_result(head, task, result.scores, targets[head], outputs[f"{head}/scores"], groups)
        for head, task in data.tasks.items()
        # What a language adds to a shared head is one number of a table; a head may be asked nothing here.
        if not task.l2_to_shared and f"{head}/{task.monitor}" in result.scores
    )


def _make_head_result(
    head: str, task: Task, scores: Mapping[str, Any], targets: np.ndarray, outputs: np.ndarray, groups: np.ndarray
) -> head_results.HeadResult:
    mine = select_head_outputs(scores, head)
    rows_asked = mask_labeled(task, targets)
    rows = [head_results.ClassScore(name, **values) for name, values in mine["per_class"].items()]
    return head_results.HeadResult(
        name=head,
        monitor=task.monitor,
        scores={name: value for name, value in mine.items() if isinstance(value, float) and "[" not in name},
        # What is right of a picture by itself is not what the score is of all.
        interval=None
        if task.localization
        else wilson_interval(task.per_sample_score(targets, outputs)[rows_asked], groups[rows_asked]),
        classes=task.labels.names,
        confusion=np.asarray(mine["confusion"]) if "confusion" in mine else None,
        per_class=tuple(rows),
        curves=mine.get("curves", {}),
        count_unit="pixels" if task.localization and "confusion" in mine else "",
    )


def _collect_mistakes(data: Data, head: str, result: RunResult) -> list[page.Mistake]:
    """The test samples that the head got wrong and was surest of."""
    task, shares = data.tasks[head], result.gate_weights
    targets, scores = result.reference[0][head], result.reference[1][f"{head}/scores"]
    names = np.array(task.labels.names, dtype=object)
    tested = data.table.split == "test"
    files = data.table.file[tested]
    languages = data.table.columns.get("language", np.full(len(tested), "", object))[tested]
    wrong = np.flatnonzero(mask_labeled(task, targets) & (task.per_sample_score(targets, scores) < 1))
    wrong = wrong[np.argsort(-scores[wrong].max(-1))][:MAX_MISTAKES]
    shown = _load_previews(data, result.test, wrong)
    found = []
    for row in wrong.tolist():
        said = task.format_prediction(scores[row])["label"]
        order = np.argsort(-scores[row])[:3]
        found.append(
            page.Mistake(
                previews=shown[row],
                file=str(files[row]),
                truth=tuple(names[targets[row] > 0.5]),
                predicted=tuple(said) if isinstance(said, list) else (said,),
                score=float(scores[row].max()),
                top_scores=tuple((str(names[i]), float(scores[row][i])) for i in order),
                head=head,
                gate_weights={} if shares is None else dict(zip(data.modalities, shares[row].tolist(), strict=True)),
                language=str(languages[row]),
            )
        )
    return found


def _load_previews(data: Data, test: FeatureStore, chosen: np.ndarray) -> dict[int, tuple[SamplePreview, ...]]:
    """What there is to see of some test samples, by their position in the test split."""
    rows = np.sort(chosen)
    member = np.zeros(len(data.table.split), bool)
    member[np.flatnonzero(data.table.split == "test")[rows]] = True
    return {
        row: tuple(
            modality.preview(raw[tower], np.asarray(test.inputs[0][tower][row]))
            for tower, modality in data.modalities.items()
            if raw[tower]
        )
        for row, raw in zip(rows.tolist(), data.read_raw_contents(member), strict=True)
    }
