"""Validation, checkpointing, early stopping and weight selection of a phase."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.evaluation.scores import mask_labeled, predict_batches
from tfx_finetune.models.network import Network
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.training.weight_averaging import (
    greedy_soup,
    interpolate,
    rank_epochs,
    reachable_epochs,
    standard_error,
)
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.task import Task

RankingKey = tuple[float, float]
"""Validation score and negative validation loss; greater is better."""
EpochCallback = Callable[[str, int, float], None]
"""Function of (phase name, epoch from 0, validation score) that is called after every epoch."""

VALIDATION_BATCH_SIZE = 256
_DENSE_BATCH_SIZE = 32  # dense heads have outputs for every position, which need more memory


class ValidationScorer:
    """Scorer of weights on the validation samples.

    The score is the mean over heads of the monitored score, which the final evaluation reports too.

    Args:
        trainable_part: The model that the phase trains.
        network: The whole model.
        val: Inputs of the trainable part and targets of the validation samples, or None without validation samples.
    """

    def __init__(self, trainable_part: keras.Model, network: Network, val: FeatureStore | None) -> None:
        self.trainable_part, self.network, self.val = trainable_part, network, val
        self._run = tf.function(lambda x: trainable_part(x, training=False), autograph=False)

    def __call__(self, weights: Weights) -> float:
        """Set the weights of the trainable part and return their validation score."""
        self.trainable_part.set_weights(weights)
        return self.validate()["val_score"]

    def validate(self) -> dict[str, float]:
        """Return the validation metrics of the current weights."""
        return validate(self.predict, self.network.tasks, self.val)

    def predict(self, inputs: Batch) -> Batch:
        """Return the outputs (batch, ...) of the trainable part for its inputs (batch, ...)."""
        outputs: Batch = self._run({name: tf.constant(values) for name, values in inputs.items()})
        return outputs


def validate(predict: Callable, tasks: Mapping[str, Task], val: FeatureStore | None) -> dict[str, float]:
    """Predict the validation samples and return the validation metrics.

    Args:
        predict: Function from inputs (batch, ...) by name to outputs `<head>/logits`.
        tasks: Heads by name.
        val: Inputs and targets of the validation samples, or None without validation samples.

    Returns:
        `val_loss`, `val_score` and `val_<head>/<score>`; empty without validation samples.
    """
    if not val:
        return {}
    return compute_validation_metrics(tasks, *predict_batches(predict, val.batches(VALIDATION_BATCH_SIZE)))


def compute_validation_metrics(tasks: Mapping[str, Task], targets: Batch, outputs: Batch) -> dict[str, float]:
    """Compute the validation metrics of predictions.

    Args:
        tasks: Heads by name.
        targets: Targets (n, ...) by head.
        outputs: Outputs (n, ...) by `<head>/logits`.

    Returns:
        `val_loss`: sum over heads. `val_score`: mean over heads. `val_<head>/<score>`: monitored score of each head.
    """
    scores: dict[str, float] = {}
    losses = []
    for head, task in tasks.items():
        mask = mask_labeled(task, targets[head])
        if not mask.any():
            continue
        target, logits = targets[head][mask], outputs[f"{head}/logits"][mask]
        size = _DENSE_BATCH_SIZE if task.localization else len(target)
        parts = [slice(start, start + size) for start in range(0, len(target), size)]
        losses.append(sum(float(task.loss(target[p], logits[p])) * len(target[p]) for p in parts) / len(target))
        predictions = np.concatenate([_postprocess_logits(task, logits[part]) for part in parts])
        metrics = task.compute_metrics(target, predictions, full_report=False)
        scores[f"val_{head}/{task.monitor}"] = metrics[task.monitor]
    return {"val_loss": sum(losses), "val_score": float(np.mean(list(scores.values()))), **scores}


def _postprocess_logits(task: Task, logits: np.ndarray) -> np.ndarray:
    """Convert logits (n, ...) to the predictions from which scores are computed."""
    decoded = task.decode({"logits": tf.constant(logits)})
    return task.postprocess({name: keras.ops.convert_to_numpy(values) for name, values in decoded.items()})


def ranking_key(metrics: Mapping[str, float]) -> RankingKey:
    """Return the validation score and the negative validation loss, which breaks ties of small validation sets."""
    return metrics.get("val_score", -math.inf), -metrics.get("val_loss", math.inf)


def one_standard_error(history: History, val: FeatureStore | None) -> float:
    """Return the standard error of the best validation score; smaller score differences are ties."""
    return standard_error(history.best[0], len(val)) if val else 0.0


@dataclass(frozen=True)
class PhaseRun:
    """One phase in training.

    Attributes:
        phase: Options of the phase.
        seed: Seed of the run.
        history: History, to which epochs are added.
        checkpoint: Folder of the checkpoints.
        start_time: `time.monotonic()` of the phase start, minus the seconds before a resume.
    """

    phase: Phase
    seed: int
    history: History
    checkpoint: Checkpoint
    start_time: float


class CheckpointAndEarlyStopping(keras.callbacks.Callback):
    """Callback of a phase that validates and saves every epoch, and stops early.

    Args:
        scorer: Scorer of the model that the phase trains.
        run: The phase in training.
        advance: Function that advances the progress bar.
        epoch_callback: Called after every epoch. An exception that it raises stops the phase.
    """

    def __init__(
        self, scorer: ValidationScorer, run: PhaseRun, advance: Callable[..., None], epoch_callback: EpochCallback
    ) -> None:
        super().__init__()
        self.scorer, self.trainable_part = scorer, scorer.trainable_part
        self.run, self.phase, self.history, self.checkpoint = run, run.phase, run.history, run.checkpoint
        self.advance, self.epoch_callback = advance, epoch_callback

    @property
    def should_stop(self) -> bool:
        """True if no epoch is left, or the score has not improved for `patience` epochs."""
        epochs_without_improvement = self.history.epochs - 1 - self.history.best_epoch
        out_of_patience = bool(self.phase.patience and epochs_without_improvement >= self.phase.patience)
        return self.history.epochs >= self.phase.epochs or out_of_patience

    def restore(self, state: tuple[History, Weights, Weights] | None) -> None:
        """Restore weights and optimizer variables of a checkpoint, or validate the initial weights without one."""
        self.trainable_part.optimizer.build(self.trainable_part.trainable_variables)
        if state is None:
            self.history.start = self.history.best = ranking_key(self.scorer.validate())
            return
        _, weights, optimizer_variables = state
        self.trainable_part.set_weights(weights)
        for variable, value in zip(self.trainable_part.optimizer.variables, optimizer_variables, strict=True):
            variable.assign(value)

    @property
    def margin(self) -> float:
        """Standard error of the best validation score."""
        return one_standard_error(self.history, self.scorer.val)

    def selected_epochs(self) -> list[int]:
        """Return the epochs that may form the result, best first; without validation, the last epoch."""
        scores = self.history.metrics.get("val_score")
        if not scores:
            return [self.history.epochs - 1]
        return rank_epochs(scores, self.margin)[: max(self.phase.soup_epochs, 1)]

    def epochs_to_keep(self) -> list[int]:
        """Return the epochs that may still be selected when the phase ends."""
        scores = self.history.metrics.get("val_score")
        return reachable_epochs(scores, max(self.phase.soup_epochs, 1)) if scores else [self.history.epochs - 1]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Seed dropout by the seed of the run and the epoch, so that a resumed run has the same random numbers."""
        for position, layer in enumerate(self.trainable_part.layers):
            if generator := getattr(layer, "seed_generator", None):
                generator.state.assign([self.run.seed + position, epoch << 16])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Advance the progress bar by the steps of one execution."""
        self.advance(self.trainable_part.steps_per_execution)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Validate the epoch, save it and decide whether to stop."""
        logs = logs if logs is not None else {}
        if not math.isfinite(logs["loss"]):
            hint = f"Lower --{self.history.phase}.learning_rate or --{self.history.phase}.clip_norm"
            raise UserError(f"Loss of epoch {epoch + 1} is not a finite number", got=logs["loss"], hint=hint)
        trained_weights = [weight.numpy() for weight in self.trainable_part.weights]
        # With a moving average, the average is validated and saved; training continues from the trained weights.
        self.trainable_part.optimizer.finalize_variable_values(self.trainable_part.trainable_variables)
        logs |= self.scorer.validate()
        for name, value in logs.items():
            self.history.metrics.setdefault(name, []).append(float(value))
        if (key := ranking_key(logs)) > self.history.best or not self.scorer.val:
            self.history.best, self.history.best_epoch = key, epoch
        self.checkpoint.save_epoch(epoch, self.trainable_part.weights)
        self.trainable_part.set_weights(trained_weights)
        self.history.seconds = time.monotonic() - self.run.start_time
        self.checkpoint.save_state(self.history, trained_weights, self.trainable_part.optimizer.variables)
        self.checkpoint.prune_epochs(self.epochs_to_keep())
        self.advance(0, format_epoch(epoch, logs))
        self.model.stop_training = self.should_stop
        self.epoch_callback(self.history.phase, epoch, key[0])


def format_epoch(epoch: int, metrics: Mapping[str, float]) -> str:
    """Return loss and validation score of an epoch, counted from 0, for the progress bar.

    Examples:
        >>> format_epoch(0, {"loss": 0.5, "val_loss": 0.4, "val_score": 0.75})
        'epoch 1: loss 0.500  val_score 0.750'
    """
    values = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name in ("loss", "val_score"))
    return f"epoch {epoch + 1}: {values}"


def select_weights(callback: CheckpointAndEarlyStopping, initial_weights: Weights) -> tuple[Weights, str, float]:
    """Select the weights that a phase returns.

    Candidates are the selected epochs, their greedy soup, interpolations with the initial weights (`wise_ft`), and the
    initial weights. Score differences below one standard error are ties, which the longest training wins.

    Args:
        callback: Callback of the phase, with its history and checkpoints.
        initial_weights: Weights before the phase.

    Returns:
        The weights, their description, and their validation score.
    """
    scorer, margin = callback.scorer, callback.margin
    epochs = callback.selected_epochs()
    candidates, selection = [callback.checkpoint.load_epoch(epoch) for epoch in epochs], f"epoch {epochs[0] + 1}"
    if not scorer.val:
        return candidates[0], selection, callback.history.val_score
    weights, count, score = greedy_soup(candidates, scorer, margin)
    if count > 1:
        selection = f"average of {count} epochs"
    if callback.phase.wise_ft:
        weights, coefficient, score = interpolate(initial_weights, weights, score, scorer, margin)
        if coefficient != 1:
            selection = f"interpolation, {coefficient:.1f} of the way from the initial weights to {selection}"
    initial_score = callback.history.start[0]
    if score + margin < initial_score:
        return initial_weights, "initial weights (no epoch improved the validation score)", initial_score
    return weights, selection, score
