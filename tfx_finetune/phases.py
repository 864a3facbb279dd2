"""STATION: run one phase of training on (trunk, top).

The trunk is all that the phase leaves frozen below its cut. Its outputs do not change between epochs, so they are
computed once a sample and view, and `fit` sees the top alone. Where everything is trained there is no trunk, and
`fit` sees augmented batches from the pipeline: the same code.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune import features
from tfx_finetune.core import files, hardware, progress
from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.engine import engine
from tfx_finetune.evaluate import predictions
from tfx_finetune.model import Network, cut
from tfx_finetune.pipeline import Data
from tfx_finetune.plan import Plan


@dataclass
class History:
    """What a phase did, epoch by epoch; written after every epoch, read again by a run that goes on.

    Attributes:
        phase: Its name.
        metrics: A list of one value an epoch for each metric.
        best_epoch: The epoch (from 0) whose weights are kept.
        best: Its validation score and negative validation loss, which decides between equal scores.
        trained: Numbers that were trained, of `parameters` in all.
        seconds: Time it took, the trunk's outputs included.
        done: Whether the phase came to its end.
    """

    phase: str
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = -1
    best: tuple[float, float] = (-math.inf, -math.inf)
    trained: int = 0
    parameters: int = 0
    seconds: float = 0.0
    done: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that are complete."""
        return len(self.metrics.get("loss", ()))


def fit_phase(network: Network, name: str, phase: Phase, data: Data, plan: Plan) -> History:
    """Trains what a phase unfreezes and leaves the network with the weights of the phase's best epoch.

    The state after every epoch is kept in `workdir/checkpoints/<name>`; a phase that was interrupted goes on there.

    Args:
        network: The whole model; its weights are changed in place.
        name: The phase's name.
        phase: How to train.
        data: Samples of all splits.
        plan: The run.

    Raises:
        UserError: The loss is not a number.
    """
    folder = plan.workdir / "checkpoints" / name
    history = _restore(folder / "history.json") or History(name)
    trunk, top = cut(network, phase.unfreeze)
    if history.done:
        top.load_weights(folder / "best.weights.h5")
        return history
    started = time.monotonic() - history.seconds
    temporary = plan.workdir / "features"
    apply = engine(trunk, data.table.size("train") * phase.views + data.table.size("val")) if trunk else None
    key = features.fingerprint(data, trunk, plan.preparation)
    place = plan.features_folder or temporary
    try:
        val = features.collect(data, "val", 1, apply, key, place) if data.table.size("val") else None
        if trunk:
            train = features.collect(data, "train", phase.views, apply, key, place)
            batches = train.epochs(history.epochs, phase.epochs, data.batch_size, plan.run.seed)
        else:
            batches = data.epochs("train", history.epochs, phase.epochs)
        steps = math.ceil(data.table.size("train") / data.batch_size)
        compile_top(top, network, phase, steps)
        history.trained = _count(top.trainable_weights)
        history.parameters = _count(network.model.weights)
        with progress.bar(name, phase.epochs * steps) as advance:
            advance(history.epochs * steps)
            keeper = Keeper(top, network, val, history, folder, phase.patience, plan.run.seed, started, advance)
            if history.epochs:
                keeper.resume()
            board = keras.callbacks.TensorBoard(plan.workdir / "tensorboard" / name, write_graph=False)
            top.fit(
                batches.map(lambda x, y, w: (x, _by_output(y), _by_output(w))),
                epochs=phase.epochs,
                initial_epoch=history.epochs,
                steps_per_epoch=steps,
                callbacks=[keeper, board],
                shuffle=False,
                verbose=0,
            )
        keeper.finish()
    finally:
        features.forget(temporary)
    return history


def compile_top(top: keras.Model, network: Network, phase: Phase, steps: int) -> None:
    """Compiles the top for a phase of `phase.epochs` epochs of `steps` steps: AdamW, warm-up, then the schedule.

    Weight decay is decoupled (arXiv 1711.05101) and leaves out biases and normalization.
    """
    total = phase.epochs * steps
    rising = int(phase.warmup * total)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if rising else phase.learning_rate,
        decay_steps=max(total - rising, 1),
        alpha=1.0 if phase.schedule == "constant" else 0.0,
        warmup_target=phase.learning_rate if rising else None,
        warmup_steps=rising,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=phase.weight_decay, global_clipnorm=phase.clip_norm or None)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    top.compile(
        optimizer=optimizer,
        loss={f"{head}/logits": task.loss for head, task in network.tasks.items()},
        metrics={f"{head}/logits": task.metrics() for head, task in network.tasks.items()},
        jit_compile=hardware.detect().jit_compile,
    )


class Keeper(keras.callbacks.Callback):
    """Scores every epoch on the validation samples, keeps the best weights, stops early, and makes runs resumable.

    The score is the mean over heads of each task's own score, the one that the final evaluation reports; the loss
    decides between equal scores, which small validation sets often give.
    """

    def __init__(
        self,
        top: keras.Model,
        network: Network,
        val: features.Store | None,
        history: History,
        folder: Path,
        patience: int,
        seed: int,
        started: float,
        advance: Any,
    ) -> None:
        super().__init__()
        self.top, self.network, self.val, self.history = top, network, val, history
        self.folder, self.patience, self.seed, self.started, self.advance = folder, patience, seed, started, advance

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Lets dropout depend on the seed and the epoch alone, so that a resumed run draws what it would have drawn."""
        for position, layer in enumerate(self.top.layers):
            if generator := getattr(layer, "seed_generator", None):
                generator.state.assign([self.seed + position, epoch << 16])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar."""
        self.advance(1)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Scores, keeps and decides."""
        logs = logs if logs is not None else {}
        if not math.isfinite(logs["loss"]):
            todo = f"lower --{self.history.phase}.learning_rate or --{self.history.phase}.clip_norm"
            raise UserError(f"the loss of epoch {epoch + 1} is not a number", received=logs["loss"], todo=todo)
        logs |= validate(self.top, self.network, self.val) if self.val else {}
        for name, value in logs.items():
            self.history.metrics.setdefault(name, []).append(float(value))
        now = (logs.get("val_score", float(epoch)), -logs.get("val_loss", 0.0))
        if now > tuple(self.history.best):
            self.history.best, self.history.best_epoch = now, epoch
            self._save("best.weights.h5")
        self._save("last.weights.h5")
        self._record()
        note = f"epoch {epoch + 1}: " + "  ".join(f"{k} {v:.3f}" for k, v in logs.items() if k in ("loss", "val_score"))
        self.advance(0, note)
        if self.patience and epoch - self.history.best_epoch >= self.patience:
            self.model.stop_training = True

    def resume(self) -> None:
        """Loads weights and optimizer of the last complete epoch."""
        self.top.optimizer.build(self.top.trainable_variables)
        self.top.load_weights(self.folder / "last.weights.h5")

    def finish(self) -> None:
        """Leaves the model with the best weights and marks the phase as done."""
        self.top.load_weights(self.folder / "best.weights.h5")
        (self.folder / "last.weights.h5").unlink()
        self.history.done = True
        self._record()

    def _save(self, name: str) -> None:
        with files.atomic(self.folder / name) as draft:
            self.top.save_weights(draft)

    def _record(self) -> None:
        self.history.seconds = time.monotonic() - self.started
        with files.atomic(self.folder / "history.json") as draft:
            draft.write_text(json.dumps(dataclasses.asdict(self.history)))


def validate(top: keras.Model, network: Network, val: features.Store) -> dict[str, float]:
    """Returns `val_loss`, `val_score` and `val_<head>/<score>` of the top on a store."""
    # The whole model takes its input by name, a top the one tensor that its trunk gives.
    whole = top is network.model
    batches = (({network.tower: x} if whole else x, y) for x, y in val.batches(256))
    targets, outputs = predictions(lambda inputs: top(inputs, training=False), batches)
    found: dict[str, float] = {}
    losses = []
    for head, task in network.tasks.items():
        logits = outputs[f"{head}/logits"]
        losses.append(float(task.loss(targets[head], logits)))
        decoded = keras.ops.convert_to_numpy(task.decode({"logits": tf.constant(logits)})["scores"])
        found[f"val_{head}/{task.score}"] = task.scores(targets[head], decoded)[task.score]
    return {"val_loss": sum(losses), "val_score": float(np.mean(list(found.values()))), **found}


def _by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {f"{head}/logits": value for head, value in values.items()}


def _count(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _restore(path: Path) -> History | None:
    return History(**json.loads(path.read_text())) if path.exists() else None
