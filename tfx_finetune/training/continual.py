"""Order in which the phases train the languages of the data: together, separately and then merged, or one by one.

Phase `frozen` always trains all languages together. `--strategy` applies to phase `finetune`.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.scores import predict_batches
from tfx_finetune.models.frozen_heads import freeze_heads
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import split_model
from tfx_finetune.ops.arrays import take
from tfx_finetune.training.callbacks import (
    VALIDATION_BATCH_SIZE,
    RankingKey,
    ValidationScorer,
    compute_validation_metrics,
    ranking_key,
)
from tfx_finetune.training.checkpoint import History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.language_tasks import LanguageTask, get_sample_languages, make_language_tasks
from tfx_finetune.training.merging import MERGES, SCALE_CANDIDATES
from tfx_finetune.training.phase_data import precompute_features, prepare_validation_data
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.task import Task


def fit(
    network: Network, data: Data, context: TrainingContext, run: Run, heads_by: str
) -> tuple[list[History], ContinualMetrics | None]:
    """Train the phases of a run in the order of `--strategy`.

    Args:
        network: The whole model; its weights are changed in place.
        data: Samples of all splits.
        context: Settings of the run, with its phases.
        run: Options of the run.
        heads_by: Column that selects the head of a sample; empty if all heads answer all samples.

    Returns:
        The history of each phase, and the continual-learning metrics of sequential training, otherwise None.

    Raises:
        UserError: If the data cannot be divided into languages.
    """
    if run.strategy == "joint":
        return _fit_phases(network, data, context), None
    language_tasks = make_language_tasks(data, run, heads_by)
    joint_phases = {name: phase for name, phase in context.phases.items() if not _is_per_language(name)}
    histories = _fit_phases(network, data, dataclasses.replace(context, phases=joint_phases))
    scorer = _make_validation_scorer(network, data, context, run.finetune.unfreeze)
    if run.strategy == "sequential":
        new_histories, continual_metrics = _fit_sequentially(network, data, context, language_tasks, scorer)
        return histories + new_histories, continual_metrics
    return histories + _fit_separately_and_merge(network, context, language_tasks, run.merge, scorer), None


def _fit_phases(network: Network, data: Data, context: TrainingContext) -> list[History]:
    """Compute the features that the phases read in one pass, then train the phases."""
    precompute_features(network, data, context)
    return [fit_phase(network, name, phase, data, context) for name, phase in context.phases.items()]


def _fit_language_task(network: Network, language_task: LanguageTask, context: TrainingContext) -> list[History]:
    """Train the phases of one language."""
    network = freeze_heads(network, language_task.frozen_heads)
    return [
        fit_phase(network, f"{name}_{language_task.phase_suffix}", phase, language_task.data, context)
        for name, phase in context.phases.items()
        if _is_per_language(name)
    ]


def _fit_sequentially(
    network: Network,
    data: Data,
    context: TrainingContext,
    language_tasks: Sequence[LanguageTask],
    scorer: ValidationScorer,
) -> tuple[list[History], ContinualMetrics]:
    """Train one language after another, and validate all languages after each."""
    languages = get_sample_languages(data, language_tasks[0].heads_by)[data.table.split == "val"]

    def score_languages() -> tuple[float, ...]:
        targets, outputs = (
            predict_batches(scorer.predict, scorer.val.batches(VALIDATION_BATCH_SIZE)) if scorer.val else ({}, {})
        )
        scores = []
        for language_task in language_tasks:
            tasks, mask = _select_heads_of_language(network, language_task), languages == language_task.language
            metrics = compute_validation_metrics(tasks, take(targets, mask), take(outputs, mask))
            scores.append(metrics["val_score"])
        return tuple(scores)

    initial_scores, histories, scores = score_languages(), list[History](), []
    for language_task in language_tasks:
        histories += _fit_language_task(network, language_task, context)
        scores.append(score_languages())
    metrics = ContinualMetrics(tuple(task.language for task in language_tasks), initial_scores, tuple(scores))
    progress.log(f"backward transfer: {metrics.bwt:+.3f}")
    return histories, metrics


def _fit_separately_and_merge(
    network: Network,
    context: TrainingContext,
    language_tasks: Sequence[LanguageTask],
    merge: str,
    scorer: ValidationScorer,
) -> list[History]:
    """Train one model per language from the same weights, and merge the models."""
    initial_weights, histories, changed_weights = network.model.get_weights(), list[History](), []
    for language_task in language_tasks:
        network.model.set_weights(initial_weights)
        histories += _fit_language_task(network, language_task, context)
        # Weights of frozen layers are equal and need no memory.
        changed_weights.append(
            {
                index: weight
                for index, weight in enumerate(network.model.get_weights())
                if not np.array_equal(weight, initial_weights[index])
            }
        )
    network.model.set_weights(initial_weights)
    return [*histories, _merge_weights(network, language_tasks, merge, scorer, changed_weights)]


def _merge_weights(
    network: Network,
    language_tasks: Sequence[LanguageTask],
    spec: str,
    scorer: ValidationScorer,
    changed_weights: Sequence[Mapping[int, np.ndarray]],
) -> History:
    """Merge the models of the languages into the network, which has the initial weights.

    Args:
        network: The whole model.
        language_tasks: Training tasks of the languages.
        spec: Spec of the merge, such as `average()`.
        scorer: Scorer of the network on validation samples.
        changed_weights: For each language, the weights that training changed, by position in `model.weights`.
    """
    start_time, merge = time.monotonic(), MERGES.build(parse_spec(spec))
    initial_weights = network.model.get_weights()
    unmerged, merged_indices = _partition_weights(network, language_tasks, initial_weights, changed_weights)
    task_vectors = np.stack(
        [
            np.concatenate([(weights.get(i, initial_weights[i]) - initial_weights[i]).ravel() for i in merged_indices])
            for weights in changed_weights
        ]
    )
    ends = np.cumsum([initial_weights[i].size for i in merged_indices])[:-1]
    differences = dict(zip(merged_indices, np.split(merge.combine(task_vectors), ends), strict=True))

    def assign(scale: float) -> None:
        merged = {
            i: initial_weights[i] + np.float32(scale) * difference.reshape(initial_weights[i].shape)
            for i, difference in differences.items()
        }
        network.model.set_weights([(unmerged | merged).get(i, weight) for i, weight in enumerate(initial_weights)])

    def score_scale(scale: float) -> RankingKey:
        assign(scale)
        return ranking_key(scorer.validate())

    scale = merge.scale or max(SCALE_CANDIDATES, key=score_scale)
    score, negative_loss = score_scale(scale)
    scale_note = "" if merge.scale else f", scale {scale:g} selected on validation samples"
    history = History("merge", selection=f"{spec}{scale_note}", best=(score, negative_loss), val_score=score)
    history.trained_parameters, history.parameters = task_vectors.shape[1], network.model.count_params()
    history.seconds = time.monotonic() - start_time
    score_note = f"; validation score {score:.3f}" if scorer.val else ""
    progress.log(f"{len(language_tasks)} languages merged: {history.selection}{score_note}")
    return history


def _partition_weights(
    network: Network,
    language_tasks: Sequence[LanguageTask],
    initial_weights: Weights,
    changed_weights: Sequence[Mapping[int, np.ndarray]],
) -> tuple[dict[int, np.ndarray], list[int]]:
    """Divide the changed weights into weights that are not merged, and positions of weights that are.

    The head of a language has the weights of the task of this language. Statistics of normalization are averaged.

    Returns:
        Weights that are not merged by position in `model.weights`, and positions of the others.
    """
    layer_names = list_layer_names(network)["heads"]
    task_of_layer = {
        name: index
        for index, language_task in enumerate(language_tasks)
        if (task := network.tasks.get(language_task.language)) and task.heads_by
        for name in layer_names[language_task.language]
    }
    layer_of_weight = {id(weight): layer.name for layer in network.model.layers for weight in layer.weights}
    unmerged, merged_indices = {}, []
    for index in sorted({index for weights in changed_weights for index in weights}):
        weight = network.model.weights[index]
        if (name := layer_of_weight[id(weight)]) in task_of_layer:
            unmerged[index] = changed_weights[task_of_layer[name]].get(index, initial_weights[index])
        elif weight.name.startswith("moving_"):
            statistics = [weights.get(index, initial_weights[index]) for weights in changed_weights]
            unmerged[index] = np.mean(statistics, axis=0)
        else:
            merged_indices.append(index)
    return unmerged, merged_indices


def _make_validation_scorer(network: Network, data: Data, context: TrainingContext, unfreeze: str) -> ValidationScorer:
    """Return a scorer of the network on the validation samples."""
    trunks, trainable_part = split_model(network, unfreeze)
    return ValidationScorer(trainable_part, network, prepare_validation_data(trunks, data, context))


def _select_heads_of_language(network: Network, language_task: LanguageTask) -> dict[str, Task]:
    """Return the head of a language, or all heads but the language classifier if no head belongs to the language."""
    language_heads = {
        head: task for head, task in network.tasks.items() if task.heads_by and head == language_task.language
    }
    return language_heads or {head: task for head, task in network.tasks.items() if head != language_task.heads_by}


def _is_per_language(phase: str) -> bool:
    """Return True if `--strategy` applies to a phase: `finetune`, or a part of it such as `finetune_image`."""
    return phase.partition("_")[0] == "finetune"
