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
from tfx_finetune.datasets.mixture_weights import compute_sampling_weights
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.scores import predict_batches
from tfx_finetune.models.build import split_model
from tfx_finetune.models.frozen_heads import freeze_heads
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network
from tfx_finetune.ops.arrays import take
from tfx_finetune.training.callbacks import ValidationScorer, compute_validation_metrics, ranking_key
from tfx_finetune.training.checkpoint import History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.merging import MERGES, SCALE_CANDIDATES
from tfx_finetune.training.phase_data import precompute_features, prepare_validation_data
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.components import Task


@dataclass(frozen=True)
class LanguageTask:
    """One language.

    Attributes:
        name: What the names of its phases end with.
        language: Its value in the column.
        route: The column that says which head answers a sample; empty where all do.
        data: The samples that it trains on, and its own validation samples.
        held: Heads that do not learn meanwhile.
    """

    phase_suffix: str
    language: str
    heads_by: str
    data: Data
    frozen_heads: tuple[str, ...]


def fit(
    network: Network, data: Data, context: TrainingContext, run: Run, heads_by: str
) -> tuple[list[History], ContinualMetrics | None]:
    """Runs the phases of a run as `--strategy` says.

    Returns:
        What each phase did, and how languages did that were learned one after another.

    Raises:
        UserError: The data cannot be taken apart by language.
    """
    if run.strategy == "joint":
        precompute_features(network, data, context)
        return [fit_phase(network, name, phase, data, context) for name, phase in context.phases.items()], None
    turns = make_language_tasks(data, run, heads_by)
    warm = {name: phase for name, phase in context.phases.items() if not _is_per_language(name)}
    precompute_features(network, data, dataclasses.replace(context, phases=warm))
    histories = [fit_phase(network, name, phase, data, context) for name, phase in warm.items()]
    judge = _make_validation_scorer(network, data, context, run.finetune.unfreeze)
    if run.strategy == "sequential":
        found, transfer = _fit_sequentially(network, data, context, turns, judge)
        return histories + found, transfer
    return histories + _fit_separately_and_merge(network, context, turns, run.merge, judge), None


def make_language_tasks(data: Data, run: Run, heads_by: str) -> list[LanguageTask]:
    """The languages in the order in which they are learned, each with its samples.

    Raises:
        UserError: The data does not say the language, has one alone, or too little of one.
    """
    table, column = data.table, heads_by or "language"
    lanes = _get_sample_languages(data, heads_by)
    order = _order_languages(run, column, lanes[table.split == "train"])
    needs_val = run.strategy == "sequential" or not MERGES.build(parse_spec(run.merge)).scale
    if needs_val and not table.size("val"):
        todo = "raise --split.val, or give the merge a scale"
        raise UserError(f"--strategy={run.strategy} needs validation samples", got=data.source.name, hint=todo)
    judged = set(lanes[table.split == "val"])
    if run.strategy == "sequential" and (poor := [lane for lane in order if lane not in judged]):
        todo = "raise --split.val, or add samples"
        raise UserError(f"a {column} without validation samples, which tell how it does", got=poor[0], hint=todo)
    return [_make_language_task(data, run, heads_by, order, at) for at in range(len(order))]


def _order_languages(run: Run, column: str, sample_languages: np.ndarray) -> list[str]:
    """Languages of the training samples: as `--language_order` has them, else those of most samples first."""
    names, counts = np.unique(sample_languages[sample_languages != ""].astype(str), return_counts=True)
    known = [str(names[at]) for at in np.lexsort((names, -counts))]
    if len(known) < 2:
        received = f"{', '.join(known) or 'none'} in the column {column}"
        raise UserError(f"--strategy={run.strategy} takes several languages", got=received)
    wanted = [name.strip() for name in run.language_order.split(",") if name.strip()]
    if wanted and sorted(wanted) != sorted(known):
        raise UserError("--language_order does not name every one of the data once", got=wanted, expected=sorted(known))
    return wanted or known


def _make_language_task(data: Data, run: Run, heads_by: str, order: Sequence[str], index: int) -> LanguageTask:
    """The turn of the language at a position: its own samples, and some of those before it in training."""
    table, language, lanes = data.table, order[index], _get_sample_languages(data, heads_by)
    replayed = np.zeros(len(lanes), bool)
    for earlier in order[:index]:
        theirs = np.flatnonzero((lanes == earlier) & (table.split == "train"))
        count = round(run.rehearsal * len(theirs))
        replayed[np.random.default_rng([run.seed, index]).permutation(theirs)[:count]] = True
    split = np.where((lanes == language) | replayed, table.split, "").astype(object)
    own = dataclasses.replace(table, split=split)
    chances, _ = compute_sampling_weights(own, data.tasks, run)
    data = dataclasses.replace(data, sampler=dataclasses.replace(data.sampler, weights=chances))
    learned = {language, *lanes[replayed]}
    held = [head for head, task in data.tasks.items() if (task.heads_by and head not in learned) or head == heads_by]
    name = re.sub(r"[^\w-]+", "_", language)  # of a folder
    return LanguageTask(f"{index + 1}_{name}", language, heads_by, dataclasses.replace(data, table=own), tuple(held))


def _fit_language_task(network: Network, language_task: LanguageTask, context: TrainingContext) -> list[History]:
    """Runs the phases of one language."""
    mine = freeze_heads(network, language_task.frozen_heads)
    tune = {name: phase for name, phase in context.phases.items() if _is_per_language(name)}
    return [
        fit_phase(mine, f"{name}_{language_task.phase_suffix}", phase, language_task.data, context)
        for name, phase in tune.items()
    ]


def _fit_sequentially(
    network: Network,
    data: Data,
    context: TrainingContext,
    language_tasks: Sequence[LanguageTask],
    scorer: ValidationScorer,
) -> tuple[list[History], ContinualMetrics]:
    """One language after another, and after each how well all are known."""
    lanes = _get_sample_languages(data, language_tasks[0].heads_by)[data.table.split == "val"]

    def scores() -> tuple[float, ...]:
        targets, outputs = predict_batches(scorer.predict, scorer.val.batches(256)) if scorer.val else ({}, {})
        each = [(_select_heads_of_language(network, turn), lanes == turn.language) for turn in language_tasks]
        return tuple(
            compute_validation_metrics(tasks, take(targets, own), take(outputs, own))["val_score"]
            for tasks, own in each
        )

    start, histories, found = scores(), list[History](), []
    for turn in language_tasks:
        histories += _fit_language_task(network, turn, context)
        found.append(scores())
    transfer = ContinualMetrics(tuple(turn.language for turn in language_tasks), start, tuple(found))
    progress.log(f"backward transfer: {transfer.bwt:+.3f}")
    return histories, transfer


def _fit_separately_and_merge(
    network: Network,
    context: TrainingContext,
    language_tasks: Sequence[LanguageTask],
    merge: str,
    scorer: ValidationScorer,
) -> list[History]:
    """A model a language, each from the same start, and then one of them all."""
    start, histories, tuned = network.model.get_weights(), list[History](), []
    for turn in language_tasks:
        network.model.set_weights(start)
        histories += _fit_language_task(network, turn, context)
        ours = network.model.get_weights()
        # Of a tower that is frozen for the most part, little is worth keeping.
        tuned.append({at: new for at, new in enumerate(ours) if not np.array_equal(new, start[at])})
    network.model.set_weights(start)
    return [*histories, _merge_weights(network, language_tasks, merge, scorer, start, tuned)]


def _merge_weights(
    network: Network,
    language_tasks: Sequence[LanguageTask],
    spec: str,
    scorer: ValidationScorer,
    start_weights: Weights,
    finetuned_weights: Sequence[Mapping[int, np.ndarray]],
) -> History:
    """Leaves the network with the merged weights; `tuned` has for each turn those that changed, by position."""
    began, merge = time.monotonic(), MERGES.build(parse_spec(spec))
    fixed, shared = _partition_weights(network, language_tasks, start_weights, finetuned_weights)
    vectors = np.stack(
        [
            np.concatenate([(mine.get(at, start_weights[at]) - start_weights[at]).ravel() for at in shared])
            for mine in finetuned_weights
        ]
    )
    added = np.split(merge.combine(vectors), np.cumsum([start_weights[at].size for at in shared])[:-1])

    def assign(scale: float) -> None:
        moved = {
            at: start_weights[at] + np.float32(scale) * part.reshape(start_weights[at].shape)
            for at, part in zip(shared, added, strict=True)
        }
        network.model.set_weights([(fixed | moved).get(at, value) for at, value in enumerate(start_weights)])

    def judged(scale: float) -> tuple[float, float]:
        assign(scale)
        return ranking_key(scorer.validate()) if scorer.val else ranking_key({})

    scale = merge.scale or max(SCALE_CANDIDATES, key=judged)
    score, loss = judged(scale)
    chosen = "" if merge.scale else f", scale {scale:g} chosen on validation samples"
    history = History("merge", selection=f"{spec}{chosen}", best=(score, loss), val_score=score)
    history.trained_parameters, history.parameters = vectors.shape[1], network.model.count_params()
    history.seconds = time.monotonic() - began
    progress.log(
        f"{len(language_tasks)} languages merged: {history.selection}"
        + (f"; validation score {score:.3f}" if scorer.val else "")
    )
    return history


def _partition_weights(
    network: Network,
    language_tasks: Sequence[LanguageTask],
    start_weights: Weights,
    finetuned_weights: Sequence[Mapping[int, np.ndarray]],
) -> tuple[dict[int, np.ndarray], list[int]]:
    """Weights that are not merged, by position, and positions of those that are.

    A head of one language is what its own turn made of it; statistics of normalization are averaged.
    """
    layers = list_layer_names(network)["heads"]
    owner = {
        name: at
        for at, turn in enumerate(language_tasks)
        if (task := network.tasks.get(turn.language)) and task.heads_by
        for name in layers[turn.language]
    }
    names = {id(weight): layer.name for layer in network.model.layers for weight in layer.weights}
    fixed, shared = {}, []
    for at in sorted({at for mine in finetuned_weights for at in mine}):
        weight = network.model.weights[at]
        if (name := names[id(weight)]) in owner:
            fixed[at] = finetuned_weights[owner[name]].get(at, start_weights[at])
        elif weight.name.startswith("moving_"):
            fixed[at] = np.mean([mine.get(at, start_weights[at]) for mine in finetuned_weights], axis=0)
        else:
            shared.append(at)
    return fixed, shared


def _make_validation_scorer(network: Network, data: Data, context: TrainingContext, unfreeze: str) -> ValidationScorer:
    """Tells how good the network is on validation samples."""
    trunks, top = split_model(network, unfreeze)
    return ValidationScorer(top, network, prepare_validation_data(trunks, data, context))


def _select_heads_of_language(network: Network, turn: LanguageTask) -> dict[str, Task]:
    """The heads that answer samples of a language: its own, or all but the one that tells languages."""
    own = {head: task for head, task in network.tasks.items() if task.heads_by and head == turn.language}
    return own or {head: task for head, task in network.tasks.items() if head != turn.heads_by}


def _get_sample_languages(data: Data, heads_by: str) -> np.ndarray:
    """The language of every sample, (n,); empty where the data does not say it."""
    return data.table.columns.get(heads_by or "language", np.full(len(data.table.split), "", object))


def _is_per_language(phase: str) -> bool:
    """Whether a phase takes languages apart."""
    return phase.partition("_")[0] == "tune"
