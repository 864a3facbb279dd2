"""Scores every epoch of a phase, keeps what may be wanted, stops early, and makes runs resumable."""

import math
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.evaluation.scores import mask_labeled, predict_batches
from tfx_finetune.models.network import Network
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.training.weight_averaging import rank_epochs, reachable_epochs, standard_error
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task

RankingKey = tuple[float, float]

# Of each there is an answer for every place.
_DENSE_BATCH_SIZE = 32


class ValidationScorer:
    """Tells how good weights are on the validation samples.

    The score is the mean over heads of each task's own score, the one that the final evaluation reports.

    Args:
        top: What is trained.
        network: The whole model.
        val: What the top sees of the validation samples; None where there are none.
    """

    def __init__(self, trainable_part: keras.Model, network: Network, val: FeatureStore | None) -> None:
        self.trainable_part, self.network, self.val = trainable_part, network, val
        self._run = tf.function(lambda x: trainable_part(x, training=False), autograph=False)

    def __call__(self, weights: Weights) -> float:
        """Score of these weights, which the top has afterwards."""
        self.trainable_part.set_weights(weights)
        return self.validate()["val_score"]

    def validate(self) -> dict[str, float]:
        """Those of the top as it is; see `judged`."""
        return validate(self.predict, self.network.tasks, self.val)

    def predict(self, inputs: Batch) -> Batch:
        """Inputs of the top, (batch, ...) -> its outputs as it is."""
        found: Batch = self._run({name: tf.constant(values) for name, values in inputs.items()})
        return found


def validate(predict: Callable, tasks: Mapping[str, Task], val: FeatureStore | None) -> dict[str, float]:
    """`val_loss`, `val_score` and `val_<head>/<score>`; nothing without validation samples.

    Args:
        predict: Inputs by name, (batch, ...) -> {"<head>/logits": ...}.
        tasks: Heads by name.
        val: What it takes.
    """
    return compute_validation_metrics(tasks, *predict_batches(predict, val.batches(256))) if val else {}


def compute_validation_metrics(tasks: Mapping[str, Task], targets: Batch, outputs: Batch) -> dict[str, float]:
    """`judged`, of targets by head and outputs by name that are known, (n, ...)."""
    found: dict[str, float] = {}
    losses = []
    for head, task in tasks.items():
        mine = mask_labeled(task, targets[head])
        if not mine.any():
            continue
        target, logits = targets[head][mine], outputs[f"{head}/logits"][mine]
        size = _DENSE_BATCH_SIZE if task.localization else len(target)
        parts = [slice(at, at + size) for at in range(0, len(target), size)]
        losses.append(sum(float(task.loss(target[p], logits[p])) * len(target[p]) for p in parts) / len(target))
        scores = np.concatenate([_postprocess_logits(task, logits[part]) for part in parts])
        found[f"val_{head}/{task.monitor}"] = task.compute_metrics(target, scores, whole=False)[task.monitor]
    return {"val_loss": sum(losses), "val_score": float(np.mean(list(found.values()))), **found}


def _postprocess_logits(task: Task, logits: np.ndarray) -> np.ndarray:
    """Logits (n, ...) as scores are computed of them."""
    decoded = task.decode({"logits": tf.constant(logits)})
    return task.postprocess({name: keras.ops.convert_to_numpy(values) for name, values in decoded.items()})


def ranking_key(scores: dict[str, float]) -> RankingKey:
    """Validation score and negative loss, which decides between equal scores: small validation sets often give them."""
    return scores.get("val_score", -math.inf), -scores.get("val_loss", math.inf)


def one_standard_error(history: History, val: FeatureStore | None) -> float:
    """By which a validation score has to be better than another one to say anything: the error of the best one."""
    return standard_error(history.best[0], len(val)) if val else 0.0


class CheckpointAndEarlyStopping(keras.callbacks.Callback):
    """The callback of a phase.

    Args:
        top: What is trained.
        judge: Tells how good it is.
        history: What was done; goes on growing.
        checkpoint: Where everything is kept.
        phase: How to train.
        seed: Of the run.
        started: When the phase would have begun had it not been interrupted, in monotonic seconds.
        advance: Moves the bar.
        watch: Told the phase, the epoch and its validation score.
    """

    def __init__(
        self,
        trainable_part: keras.Model,
        scorer: ValidationScorer,
        history: History,
        checkpoint: Checkpoint,
        phase: Phase,
        seed: int,
        start_time: float,
        advance: Callable[..., None],
        epoch_callback: Callable[[str, int, float], None],
    ) -> None:
        super().__init__()
        self.trainable_part, self.scorer, self.history, self.checkpoint = trainable_part, scorer, history, checkpoint
        self.phase, self.seed, self.start_time = phase, seed, start_time
        self.advance, self.epoch_callback = advance, epoch_callback

    @property
    def should_stop(self) -> bool:
        """Whether no epoch is left, or the last ones were no better."""
        waited = self.history.epochs - 1 - self.history.best_epoch
        return self.history.epochs >= self.phase.epochs or bool(self.phase.patience and waited >= self.phase.patience)

    def restore(self, state: tuple[History, Weights, Weights] | None) -> None:
        """Scores the start, or loads weights and optimizer of the last complete epoch."""
        self.trainable_part.optimizer.build(self.trainable_part.trainable_variables)
        if state is None:
            self.history.start = self.history.best = ranking_key(self.scorer.validate())
            return
        _, weights, optimizer = state
        self.trainable_part.set_weights(weights)
        for variable, value in zip(self.trainable_part.optimizer.variables, optimizer, strict=True):
            variable.assign(value)

    @property
    def margin(self) -> float:
        """See `margin`."""
        return one_standard_error(self.history, self.scorer.val)

    def selected_epochs(self) -> list[int]:
        """The epochs whose weights may become the result, the preferred first; the last one where nothing is judged."""
        scores = self.history.metrics.get("val_score")
        return (
            rank_epochs(scores, self.margin)[: max(self.phase.soup_epochs, 1)] if scores else [self.history.epochs - 1]
        )

    def epochs_to_keep(self) -> list[int]:
        """The epochs that may still be wanted when the phase is over."""
        scores = self.history.metrics.get("val_score")
        return reachable_epochs(scores, max(self.phase.soup_epochs, 1)) if scores else [self.history.epochs - 1]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Lets dropout depend on the seed and the epoch alone, so that a resumed run draws what it would have drawn."""
        for position, layer in enumerate(self.trainable_part.layers):
            if generator := getattr(layer, "seed_generator", None):
                generator.state.assign([self.seed + position, epoch << 16])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar, by all steps that were run at once."""
        self.advance(self.trainable_part.steps_per_execution)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Scores, keeps and decides."""
        logs = logs if logs is not None else {}
        if not math.isfinite(logs["loss"]):
            todo = f"lower --{self.history.phase}.learning_rate or --{self.history.phase}.clip_norm"
            raise UserError(f"the loss of epoch {epoch + 1} is not a number", got=logs["loss"], hint=todo)
        stepped = [weight.numpy() for weight in self.trainable_part.weights]
        # With a moving average, that is what is judged and kept; training goes on from where it was.
        self.trainable_part.optimizer.finalize_variable_values(self.trainable_part.trainable_variables)
        logs |= self.scorer.validate()
        for name, value in logs.items():
            self.history.metrics.setdefault(name, []).append(float(value))
        if (now := ranking_key(logs)) > self.history.best or not self.scorer.val:
            self.history.best, self.history.best_epoch = now, epoch
        self.checkpoint.save_epoch(epoch, self.trainable_part.weights)
        self.trainable_part.set_weights(stepped)
        self.history.seconds = time.monotonic() - self.start_time
        self.checkpoint.save_state(self.history, stepped, self.trainable_part.optimizer.variables)
        self.checkpoint.prune_epochs(self.epochs_to_keep())
        note = f"epoch {epoch + 1}: " + "  ".join(f"{k} {v:.3f}" for k, v in logs.items() if k in ("loss", "val_score"))
        self.advance(0, note)
        self.model.stop_training = self.should_stop
        self.epoch_callback(self.history.phase, epoch, now[0])
