"""What a run found out, for the bundle's manifest and for report.html."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.bundle import Bundle
from tfx_finetune.contracts import LABEL_SEPARATOR, SPLITS, Batch, Exhibit, Task
from tfx_finetune.core import flagfile, hardware
from tfx_finetune.delivery.checks import Check
from tfx_finetune.delivery.pack import describe
from tfx_finetune.deployed import of_head
from tfx_finetune.evaluate import asked
from tfx_finetune.features import Store
from tfx_finetune.languages import lanes
from tfx_finetune.languages.routing import own
from tfx_finetune.languages.transfer import Transfer
from tfx_finetune.model import Network
from tfx_finetune.network.parts import parts
from tfx_finetune.pipeline import Data
from tfx_finetune.plan import Plan, modality_options
from tfx_finetune.reading.opening import specs_of
from tfx_finetune.report import MOST_MISTAKES
from tfx_finetune.reporting import page, scored
from tfx_finetune.reporting.intervals import interval
from tfx_finetune.reporting.shown import scenes
from tfx_finetune.reporting.subsets import Subset
from tfx_finetune.training.checkpoint import History
from tfx_finetune.verify import score

_PACKAGES = ("tfx_finetune", "tensorflow", "keras", "ai-edge-litert", "numpy")


def manifest(plan: Plan, data: Data, network: Network) -> dict[str, Any]:
    """What a bundle says about itself, apart from its files."""
    specs = specs_of(plan, data.table)
    heads = {
        head: {
            "task": str(specs[head]),
            "labels": list(task.labels.names),
            "counts": list(task.labels.counts),
            "samples": task.labels.samples,
            "names": {language: list(names) for language, names in task.labels.translations.items()},
        }
        for head, task in network.tasks.items()
    }
    towers = {
        tower: describe(kind, modality_options(plan.run, kind), network.backbones[tower].card)
        for tower, kind in plan.modalities.items()
    }
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "heads": heads,
        "backbones": {tower: str(spec) for tower, spec in plan.towers.items()},
        "fusion": plan.run.fusion if plan.fusion else "",
        "compress": plan.run.compress,
        "init": plan.run.init,
        "teacher": plan.run.teacher,
        "plugins": plan.run.plugins,
        "towers": towers,
        "network": parts(network),
        "data": {"source": plan.source} | {split: data.table.size(split) for split in SPLITS},
        "tokens": lanes.tokens(data),
        "versions": environment(),
    }


def environment() -> dict[str, str]:
    """Versions and machine."""
    found = hardware.detect()
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine = {"device": found.device, "threads": str(found.threads), "precision": found.precision}
    return {"python": platform.python_version(), **versions, **machine}


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
        slices=lanes.rows(data, found.scores, bundle["tokens"])
        + lanes.named(data.tasks, found.scores, len(found.test)),
        gaps=lanes.gaps(data.table, data.tasks, found.scores),
        subsets=tuple(page.Part(part.towers, part.samples, score(data.tasks, part.scores)) for part in found.parts),
        shares=shares,
        transfer=found.transfer,
        exports=tuple(page.ExportRow(check, found.bundle.file(check.format).name) for check in found.checks),
        best=bundle.get("best", ""),
    )


def _verdict(data: Data, found: Outcome, heads: Sequence[scored.HeadResult]) -> page.Verdict:
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


def _heads(data: Data, found: Outcome) -> tuple[scored.HeadResult, ...]:
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
) -> scored.HeadResult:
    mine = of_head(scores, head)
    rows_asked = asked(task, targets)
    rows = [scored.ClassScore(name, **values) for name, values in mine["per_class"].items()]
    return scored.HeadResult(
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
