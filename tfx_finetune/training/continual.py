"""STATION: how the phases take the languages of the data: together, apart and then merged, or one after another.

Phase `warm` always takes all of them together: what is taken apart is phase `tune`.
"""

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.mixture_weights import drawing
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.continual_metrics import Transfer
from tfx_finetune.evaluation.scores import predictions
from tfx_finetune.models.build import cut
from tfx_finetune.models.frozen_heads import holding
from tfx_finetune.models.layer_names import parts
from tfx_finetune.models.network import Network
from tfx_finetune.ops.arrays import rows
from tfx_finetune.training.callbacks import Judge, graded, pair
from tfx_finetune.training.checkpoint import History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.merging import MERGES, SCALES
from tfx_finetune.training.phase_data import feed_ahead, validation
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.components import Task


@dataclass(frozen=True)
class Turn:
    """One language.

    Attributes:
        name: What the names of its phases end with.
        language: Its value in the column.
        route: The column that says which head answers a sample; empty where all do.
        data: The samples that it trains on, and its own validation samples.
        held: Heads that do not learn meanwhile.
    """

    name: str
    language: str
    route: str
    data: Data
    held: tuple[str, ...]


def fit(
    network: Network, data: Data, context: TrainingContext, run: Run, route: str
) -> tuple[list[History], Transfer | None]:
    """Runs the phases of a run as `--strategy` says.

    Returns:
        What each phase did, and how languages did that were learned one after another.

    Raises:
        UserError: The data cannot be taken apart by language.
    """
    if run.strategy == "joint":
        feed_ahead(network, data, context)
        return [fit_phase(network, name, phase, data, context) for name, phase in context.phases.items()], None
    turns = turns_of(data, run, route)
    warm = {name: phase for name, phase in context.phases.items() if not _apart(name)}
    feed_ahead(network, data, dataclasses.replace(context, phases=warm))
    histories = [fit_phase(network, name, phase, data, context) for name, phase in warm.items()]
    judge = _judge(network, data, context, run.tune.unfreeze)
    if run.strategy == "sequential":
        found, transfer = _sequential(network, data, context, turns, judge)
        return histories + found, transfer
    return histories + _merged(network, context, turns, run.merge, judge), None


def turns_of(data: Data, run: Run, route: str) -> list[Turn]:
    """The languages in the order in which they are learned, each with its samples.

    Raises:
        UserError: The data does not say the language, has one alone, or too little of one.
    """
    table, column = data.table, route or "language"
    lanes = _lanes(data, route)
    order = _ordered(run, column, lanes[table.split == "train"])
    needs_val = run.strategy == "sequential" or not MERGES.build(parse_spec(run.merge)).scale
    if needs_val and not table.size("val"):
        todo = "raise --samples.val, or give the merge a scale"
        raise UserError(f"--strategy={run.strategy} needs validation samples", received=data.source.name, todo=todo)
    judged = set(lanes[table.split == "val"])
    if run.strategy == "sequential" and (poor := [lane for lane in order if lane not in judged]):
        todo = "raise --samples.val, or add samples"
        raise UserError(f"a {column} without validation samples, which tell how it does", received=poor[0], todo=todo)
    return [_turn(data, run, route, order, at) for at in range(len(order))]


def _ordered(run: Run, column: str, lanes: np.ndarray) -> list[str]:
    """Languages of the training samples: as `--languages` has them, else those of most samples first."""
    names, counts = np.unique(lanes[lanes != ""].astype(str), return_counts=True)
    known = [str(names[at]) for at in np.lexsort((names, -counts))]
    if len(known) < 2:
        received = f"{', '.join(known) or 'none'} in the column {column}"
        raise UserError(f"--strategy={run.strategy} takes several languages", received=received)
    wanted = [name.strip() for name in run.languages.split(",") if name.strip()]
    if wanted and sorted(wanted) != sorted(known):
        raise UserError("--languages does not name every one of the data once", received=wanted, allowed=sorted(known))
    return wanted or known


def _turn(data: Data, run: Run, route: str, order: Sequence[str], at: int) -> Turn:
    """The turn of the language at a position: its own samples, and some of those before it in training."""
    table, language, lanes = data.table, order[at], _lanes(data, route)
    replayed = np.zeros(len(lanes), bool)
    for earlier in order[:at]:
        theirs = np.flatnonzero((lanes == earlier) & (table.split == "train"))
        count = round(run.rehearsal * len(theirs))
        replayed[np.random.default_rng([run.seed, at]).permutation(theirs)[:count]] = True
    split = np.where((lanes == language) | replayed, table.split, "").astype(object)
    own = dataclasses.replace(table, split=split)
    chances, _ = drawing(own, data.tasks, run)
    data = dataclasses.replace(data, order=dataclasses.replace(data.order, chances=chances))
    learned = {language, *lanes[replayed]}
    held = [head for head, task in data.tasks.items() if (task.per and head not in learned) or head == route]
    name = re.sub(r"[^\w-]+", "_", language)  # of a folder
    return Turn(f"{at + 1}_{name}", language, route, dataclasses.replace(data, table=own), tuple(held))


def _fit_turn(network: Network, turn: Turn, context: TrainingContext) -> list[History]:
    """Runs the phases of one language."""
    mine = holding(network, turn.held)
    tune = {name: phase for name, phase in context.phases.items() if _apart(name)}
    return [fit_phase(mine, f"{name}_{turn.name}", phase, turn.data, context) for name, phase in tune.items()]


def _sequential(
    network: Network, data: Data, context: TrainingContext, turns: Sequence[Turn], judge: Judge
) -> tuple[list[History], Transfer]:
    """One language after another, and after each how well all are known."""
    lanes = _lanes(data, turns[0].route)[data.table.split == "val"]

    def scores() -> tuple[float, ...]:
        targets, outputs = predictions(judge.answer, judge.val.batches(256)) if judge.val else ({}, {})
        each = [(_answering(network, turn), lanes == turn.language) for turn in turns]
        return tuple(graded(tasks, rows(targets, own), rows(outputs, own))["val_score"] for tasks, own in each)

    start, histories, found = scores(), list[History](), []
    for turn in turns:
        histories += _fit_turn(network, turn, context)
        found.append(scores())
    transfer = Transfer(tuple(turn.language for turn in turns), start, tuple(found))
    progress.say(f"backward transfer: {transfer.backward:+.3f}")
    return histories, transfer


def _merged(
    network: Network, context: TrainingContext, turns: Sequence[Turn], merge: str, judge: Judge
) -> list[History]:
    """A model a language, each from the same start, and then one of them all."""
    start, histories, tuned = network.model.get_weights(), list[History](), []
    for turn in turns:
        network.model.set_weights(start)
        histories += _fit_turn(network, turn, context)
        ours = network.model.get_weights()
        # Of a tower that is frozen for the most part, little is worth keeping.
        tuned.append({at: new for at, new in enumerate(ours) if not np.array_equal(new, start[at])})
    network.model.set_weights(start)
    return [*histories, _merge(network, turns, merge, judge, start, tuned)]


def _merge(
    network: Network,
    turns: Sequence[Turn],
    spec: str,
    judge: Judge,
    start: Weights,
    tuned: Sequence[Mapping[int, np.ndarray]],
) -> History:
    """Leaves the network with the merged weights; `tuned` has for each turn those that changed, by position."""
    began, merge = time.monotonic(), MERGES.build(parse_spec(spec))
    fixed, shared = _sorted(network, turns, start, tuned)
    vectors = np.stack(
        [np.concatenate([(mine.get(at, start[at]) - start[at]).ravel() for at in shared]) for mine in tuned]
    )
    added = np.split(merge.combine(vectors), np.cumsum([start[at].size for at in shared])[:-1])

    def assign(scale: float) -> None:
        moved = {
            at: start[at] + np.float32(scale) * part.reshape(start[at].shape)
            for at, part in zip(shared, added, strict=True)
        }
        network.model.set_weights([(fixed | moved).get(at, value) for at, value in enumerate(start)])

    def judged(scale: float) -> tuple[float, float]:
        assign(scale)
        return pair(judge.scores()) if judge.val else pair({})

    scale = merge.scale or max(SCALES, key=judged)
    score, loss = judged(scale)
    chosen = "" if merge.scale else f", scale {scale:g} chosen on validation samples"
    history = History("merge", kept=f"{spec}{chosen}", best=(score, loss), result=score)
    history.trained, history.parameters = vectors.shape[1], network.model.count_params()
    history.seconds = time.monotonic() - began
    progress.say(
        f"{len(turns)} languages merged: {history.kept}" + (f"; validation score {score:.3f}" if judge.val else "")
    )
    return history


def _sorted(
    network: Network, turns: Sequence[Turn], start: Weights, tuned: Sequence[Mapping[int, np.ndarray]]
) -> tuple[dict[int, np.ndarray], list[int]]:
    """Weights that are not merged, by position, and positions of those that are.

    A head of one language is what its own turn made of it; statistics of normalization are averaged.
    """
    layers = parts(network)["heads"]
    owner = {
        name: at
        for at, turn in enumerate(turns)
        if (task := network.tasks.get(turn.language)) and task.per
        for name in layers[turn.language]
    }
    names = {id(weight): layer.name for layer in network.model.layers for weight in layer.weights}
    fixed, shared = {}, []
    for at in sorted({at for mine in tuned for at in mine}):
        weight = network.model.weights[at]
        if (name := names[id(weight)]) in owner:
            fixed[at] = tuned[owner[name]].get(at, start[at])
        elif weight.name.startswith("moving_"):
            fixed[at] = np.mean([mine.get(at, start[at]) for mine in tuned], axis=0)
        else:
            shared.append(at)
    return fixed, shared


def _judge(network: Network, data: Data, context: TrainingContext, unfreeze: str) -> Judge:
    """Tells how good the network is on validation samples."""
    trunks, top = cut(network, unfreeze)
    return Judge(top, network, validation(trunks, data, context))


def _answering(network: Network, turn: Turn) -> dict[str, Task]:
    """The heads that answer samples of a language: its own, or all but the one that tells languages."""
    own = {head: task for head, task in network.tasks.items() if task.per and head == turn.language}
    return own or {head: task for head, task in network.tasks.items() if head != turn.route}


def _lanes(data: Data, route: str) -> np.ndarray:
    """The language of every sample, (n,); empty where the data does not say it."""
    return data.table.columns.get(route or "language", np.full(len(data.table.split), "", object))


def _apart(phase: str) -> bool:
    """Whether a phase takes languages apart."""
    return phase.partition("_")[0] == "tune"
