"""What a run found out, for the bundle's manifest and for report.html."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import flagfile
from tfx_finetune.datasets.filters import own
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.deploy.checks import Check
from tfx_finetune.deploy.manifest import environment
from tfx_finetune.deploy.verify import score
from tfx_finetune.evaluation import slices
from tfx_finetune.evaluation.continual_metrics import Transfer
from tfx_finetune.evaluation.intervals import interval
from tfx_finetune.evaluation.records import Subset
from tfx_finetune.evaluation.scores import asked
from tfx_finetune.report import head_results, page
from tfx_finetune.report.examples import scenes
from tfx_finetune.report.page import MOST_MISTAKES
from tfx_finetune.tasks.outputs import of_head
from tfx_finetune.training.checkpoint import History
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, Exhibit, Task
from tfx_finetune.types.plan import Plan


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        histories: What each phase did.
        test: Prepared test samples.
        reference: The trained model's (targets, decoded outputs) on them.
        scores: Every score of the trained model.
        parts: Those for subsets of its towers.
        shares: How much each tower counts for each test sample, (n, towers); None where that is not known.
        checks: What was found about every file.
        chosen: That of the best file within `--choose`; None where there is none.
        bundle: The files.
        transfer: How languages did that were learned one after another.
    """

    histories: Sequence[History]
    test: Store
    reference: tuple[Batch, Batch]
    scores: Mapping[str, Any]
    parts: Sequence[Subset]
    shares: np.ndarray | None
    checks: Sequence[Check]
    chosen: Check | None
    bundle: Bundle
    transfer: Transfer | None


def report(plan: Plan, data: Data, found: Outcome) -> page.Report:
    """Collects the content of report.html."""
    targets, outputs = found.reference
    bundle = found.bundle.manifest
    shares = {} if found.shares is None else dict(zip(data.modalities, found.shares.mean(0).tolist(), strict=True))
    heads = _heads(data, found)
    return page.Report(
        title=data.source.name,
        command=flagfile.command(plan.workdir / "run.cfg"),
        config="\n".join(flagfile.lines(plan.run)),
        created=datetime.datetime.now().isoformat(" ", timespec="minutes"),
        seconds=sum(history.seconds for history in found.histories),
        environment=environment(),
        seed=plan.run.seed,
        verdict=_verdict(data, found, heads),
        data=_data(data, plan.route),
        phases=tuple(
            page.Curve(h.phase, h.seconds, h.trained, h.parameters, h.metrics, h.best_epoch, h.kept)
            for h in found.histories
        ),
        heads=heads,
        mistakes=tuple(
            mistake
            for head in data.tasks
            if not data.tasks[head].pool and not data.tasks[head].places
            for mistake in _mistakes(data, head, found)
        ),
        scenes=tuple(scenes(data, found.test, targets, outputs)),
        slices=slices.rows(data, found.scores, bundle["tokens"])
        + slices.named(data.tasks, found.scores, len(found.test)),
        gaps=slices.gaps(data.table, data.tasks, found.scores),
        subsets=tuple(page.Part(part.towers, part.samples, score(data.tasks, part.scores)) for part in found.parts),
        shares=shares,
        transfer=found.transfer,
        exports=tuple(page.ExportRow(check, found.bundle.file(check.format).name) for check in found.checks),
        best=bundle.get("best", ""),
    )


def _verdict(data: Data, found: Outcome, heads: Sequence[head_results.HeadResult]) -> page.Verdict:
    """The score in one line; how far it may be off is known where a head alone is right or wrong about each sample."""
    task, *others = data.tasks.values()
    return page.Verdict(
        score=score(data.tasks, found.scores),
        name="mean score" if others else task.score,
        samples=len(found.test),
        noun=next(iter(data.modalities.values())).noun if len(data.modalities) == 1 else "samples",
        interval=heads[0].interval if heads and not others else None,
    )


def _data(data: Data, route: str) -> page.Data:
    table = data.table
    classes = {}
    for head, task in data.tasks.items():
        if task.pool:
            continue
        mine = own(table, task, head, route)
        sides = {split: mine.split == split for split in SPLITS}
        values = [set(value.split(LABEL_SEPARATOR)) for value in table.columns[task.column]]
        has = {name: np.array([name in value for value in values]) for name in task.labels.names}
        classes[head] = tuple(
            page.ClassCount(name, *(int((has[name] & sides[split]).sum()) for split in SPLITS))
            for name in task.labels.names
        )
    used = table.digest[table.split != ""]
    return page.Data(
        source=data.source.name,
        splits={split: table.size(split) for split in SPLITS},
        classes=classes,
        skipped=tuple(table.bad),
        duplicates=len(used) - len(set(used)),
        notes=table.notes,
    )


def _heads(data: Data, found: Outcome) -> tuple[head_results.HeadResult, ...]:
    targets, outputs = found.reference
    groups = data.table.columns["group"][data.table.split == "test"]
    return tuple(
        _head(head, task, found.scores, targets[head], outputs[f"{head}/scores"], groups)
        for head, task in data.tasks.items()
        # What a language adds to a shared head is one number of a table; a head may be asked nothing here.
        if not task.pool and f"{head}/{task.score}" in found.scores
    )


def _head(
    head: str, task: Task, scores: Mapping[str, Any], targets: np.ndarray, outputs: np.ndarray, groups: np.ndarray
) -> head_results.HeadResult:
    mine = of_head(scores, head)
    rows_asked = asked(task, targets)
    rows = [head_results.ClassScore(name, **values) for name, values in mine["per_class"].items()]
    return head_results.HeadResult(
        name=head,
        score=task.score,
        scores={name: value for name, value in mine.items() if isinstance(value, float) and "[" not in name},
        # What is right of a picture by itself is not what the score is of all.
        interval=None if task.places else interval(task.correct(targets, outputs)[rows_asked], groups[rows_asked]),
        classes=task.labels.names,
        confusion=np.asarray(mine["confusion"]) if "confusion" in mine else None,
        per_class=tuple(rows),
        curves=mine.get("curves", {}),
        counted="pixels" if task.places and "confusion" in mine else "",
    )


def _mistakes(data: Data, head: str, outcome: Outcome) -> list[page.Mistake]:
    """The test samples that the head got wrong and was surest of."""
    task, shares = data.tasks[head], outcome.shares
    targets, scores = outcome.reference[0][head], outcome.reference[1][f"{head}/scores"]
    names = np.array(task.labels.names, dtype=object)
    tested = data.table.split == "test"
    files = data.table.file[tested]
    languages = data.table.columns.get("language", np.full(len(tested), "", object))[tested]
    wrong = np.flatnonzero(asked(task, targets) & (task.correct(targets, scores) < 1))
    wrong = wrong[np.argsort(-scores[wrong].max(-1))][:MOST_MISTAKES]
    shown = _exhibits(data, outcome.test, wrong)
    found = []
    for row in wrong.tolist():
        said = task.predict(scores[row])["label"]
        order = np.argsort(-scores[row])[:3]
        found.append(
            page.Mistake(
                exhibits=shown[row],
                file=str(files[row]),
                truth=tuple(names[targets[row] > 0.5]),
                predicted=tuple(said) if isinstance(said, list) else (said,),
                score=float(scores[row].max()),
                top=tuple((str(names[i]), float(scores[row][i])) for i in order),
                head=head,
                shares={} if shares is None else dict(zip(data.modalities, shares[row].tolist(), strict=True)),
                language=str(languages[row]),
            )
        )
    return found


def _exhibits(data: Data, test: Store, chosen: np.ndarray) -> dict[int, tuple[Exhibit, ...]]:
    """What there is to see of some test samples, by their position in the test split."""
    rows = np.sort(chosen)
    member = np.zeros(len(data.table.split), bool)
    member[np.flatnonzero(data.table.split == "test")[rows]] = True
    return {
        row: tuple(
            modality.show(raw[tower], np.asarray(test.inputs[0][tower][row]))
            for tower, modality in data.modalities.items()
            if raw[tower]
        )
        for row, raw in zip(rows.tolist(), data.raw(member), strict=True)
    }
