"""Scores every epoch of a phase, keeps what may be wanted, stops early, and makes runs resumable."""

import math
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.evaluation.scores import asked, predictions
from tfx_finetune.models.network import Network
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.training.weight_averaging import latest, open_epochs, standard_error
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task

Pair = tuple[float, float]

# Of each there is an answer for every place.
_PICTURES = 32


class Judge:
    """Tells how good weights are on the validation samples.

    The score is the mean over heads of each task's own score, the one that the final evaluation reports.

    Args:
        top: What is trained.
        network: The whole model.
        val: What the top sees of the validation samples; None where there are none.
    """

    def __init__(self, top: keras.Model, network: Network, val: Store | None) -> None:
        self.top, self.network, self.val = top, network, val
        self._run = tf.function(lambda x: top(x, training=False), autograph=False)

    def __call__(self, weights: Weights) -> float:
        """Score of these weights, which the top has afterwards."""
        self.top.set_weights(weights)
        return self.scores()["val_score"]

    def scores(self) -> dict[str, float]:
        """Those of the top as it is; see `judged`."""
        return judged(self.answer, self.network.tasks, self.val)

    def answer(self, inputs: Batch) -> Batch:
        """Inputs of the top, (batch, ...) -> its outputs as it is."""
        found: Batch = self._run({name: tf.constant(values) for name, values in inputs.items()})
        return found


def judged(predict: Callable, tasks: Mapping[str, Task], val: Store | None) -> dict[str, float]:
    """`val_loss`, `val_score` and `val_<head>/<score>`; nothing without validation samples.

    Args:
        predict: Inputs by name, (batch, ...) -> {"<head>/logits": ...}.
        tasks: Heads by name.
        val: What it takes.
    """
    return graded(tasks, *predictions(predict, val.batches(256))) if val else {}


def graded(tasks: Mapping[str, Task], targets: Batch, outputs: Batch) -> dict[str, float]:
    """`judged`, of targets by head and outputs by name that are known, (n, ...)."""
    found: dict[str, float] = {}
    losses = []
    for head, task in tasks.items():
        mine = asked(task, targets[head])
        if not mine.any():
            continue
        target, logits = targets[head][mine], outputs[f"{head}/logits"][mine]
        size = _PICTURES if task.places else len(target)
        parts = [slice(at, at + size) for at in range(0, len(target), size)]
        losses.append(sum(float(task.loss(target[p], logits[p])) * len(target[p]) for p in parts) / len(target))
        scores = np.concatenate([_read(task, logits[part]) for part in parts])
        found[f"val_{head}/{task.score}"] = task.scores(target, scores, whole=False)[task.score]
    return {"val_loss": sum(losses), "val_score": float(np.mean(list(found.values()))), **found}


def _read(task: Task, logits: np.ndarray) -> np.ndarray:
    """Logits (n, ...) as scores are computed of them."""
    decoded = task.decode({"logits": tf.constant(logits)})
    return task.read({name: keras.ops.convert_to_numpy(values) for name, values in decoded.items()})


def pair(scores: dict[str, float]) -> Pair:
    """Validation score and negative loss, which decides between equal scores: small validation sets often give them."""
    return scores.get("val_score", -math.inf), -scores.get("val_loss", math.inf)


def margin(history: History, val: Store | None) -> float:
    """By which a validation score has to be better than another one to say anything: the error of the best one."""
    return standard_error(history.best[0], len(val)) if val else 0.0


class Keeper(keras.callbacks.Callback):
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
        top: keras.Model,
        judge: Judge,
        history: History,
        checkpoint: Checkpoint,
        phase: Phase,
        seed: int,
        started: float,
        advance: Callable[..., None],
        watch: Callable[[str, int, float], None],
    ) -> None:
        super().__init__()
        self.top, self.judge, self.history, self.checkpoint = top, judge, history, checkpoint
        self.phase, self.seed, self.started = phase, seed, started
        self.advance, self.watch = advance, watch

    @property
    def over(self) -> bool:
        """Whether no epoch is left, or the last ones were no better."""
        waited = self.history.epochs - 1 - self.history.best_epoch
        return self.history.epochs >= self.phase.epochs or bool(self.phase.patience and waited >= self.phase.patience)

    def begin(self, resumed: tuple[History, Weights, Weights] | None) -> None:
        """Scores the start, or loads weights and optimizer of the last complete epoch."""
        self.top.optimizer.build(self.top.trainable_variables)
        if resumed is None:
            self.history.start = self.history.best = pair(self.judge.scores())
            return
        _, weights, optimizer = resumed
        self.top.set_weights(weights)
        for variable, value in zip(self.top.optimizer.variables, optimizer, strict=True):
            variable.assign(value)

    @property
    def margin(self) -> float:
        """See `margin`."""
        return margin(self.history, self.judge.val)

    def wanted(self) -> list[int]:
        """The epochs whose weights may become the result, the preferred first; the last one where nothing is judged."""
        scores = self.history.metrics.get("val_score")
        return latest(scores, self.margin)[: max(self.phase.soup, 1)] if scores else [self.history.epochs - 1]

    def candidates(self) -> list[int]:
        """The epochs that may still be wanted when the phase is over."""
        scores = self.history.metrics.get("val_score")
        return open_epochs(scores, max(self.phase.soup, 1)) if scores else [self.history.epochs - 1]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Lets dropout depend on the seed and the epoch alone, so that a resumed run draws what it would have drawn."""
        for position, layer in enumerate(self.top.layers):
            if generator := getattr(layer, "seed_generator", None):
                generator.state.assign([self.seed + position, epoch << 16])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar, by all steps that were run at once."""
        self.advance(self.top.steps_per_execution)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Scores, keeps and decides."""
        logs = logs if logs is not None else {}
        if not math.isfinite(logs["loss"]):
            todo = f"lower --{self.history.phase}.learning_rate or --{self.history.phase}.clip_norm"
            raise UserError(f"the loss of epoch {epoch + 1} is not a number", received=logs["loss"], todo=todo)
        stepped = [weight.numpy() for weight in self.top.weights]
        # With a moving average, that is what is judged and kept; training goes on from where it was.
        self.top.optimizer.finalize_variable_values(self.top.trainable_variables)
        logs |= self.judge.scores()
        for name, value in logs.items():
            self.history.metrics.setdefault(name, []).append(float(value))
        if (now := pair(logs)) > self.history.best or not self.judge.val:
            self.history.best, self.history.best_epoch = now, epoch
        self.checkpoint.keep(epoch, self.top.weights)
        self.top.set_weights(stepped)
        self.history.seconds = time.monotonic() - self.started
        self.checkpoint.save(self.history, stepped, self.top.optimizer.variables)
        self.checkpoint.forget(self.candidates())
        note = f"epoch {epoch + 1}: " + "  ".join(f"{k} {v:.3f}" for k, v in logs.items() if k in ("loss", "val_score"))
        self.advance(0, note)
        self.model.stop_training = self.over
        self.watch(self.history.phase, epoch, now[0])
