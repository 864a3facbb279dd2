"""STATION: makes the trained network smaller, by TF-MOT, and trains it on meanwhile.

TF-MOT takes models of Keras 2 alone. So the network is folded as it will be deployed, rebuilt in tf_keras, compressed
there, and gets its weights back; the rounded graph of quantization-aware training stays for the int8 file.
"""

import dataclasses
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.fold_batch_norm import folded
from tfx_finetune.compression.partition import Divided, divided, kernels
from tfx_finetune.compression.reconstruction import SAMPLES
from tfx_finetune.compression.tf_keras_bridge import one_or_all
from tfx_finetune.core import progress
from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.quiet import unlogged
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import in_float32
from tfx_finetune.models.network import Network
from tfx_finetune.ops.tf_data import mapped, zeros
from tfx_finetune.training.callbacks import judged, margin, pair
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.phase_data import Feed, feed
from tfx_finetune.types.deployment import Compression

Rounded = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class Compressed:
    """What compression leaves.

    Attributes:
        network: The network with its new weights; folded where anything was compressed.
        rounded: Prepared inputs by name, (batch, ...) -> {"<head>/logits": ...}, rounded to int8; None without `qat()`.
        histories: What each compression did.
        sizes: How many kernels of each size, in weights, were compressed; None for all that a file has.
    """

    network: Network
    rounded: Rounded | None
    histories: list[History]
    sizes: Counter[int] | None = None


def check_layers(network: Network) -> None:
    """Says, before training, what `--compress` leaves as it is since Keras 2 lacks the layers.

    Raises:
        UserError: That is all of the towers.
    """
    if not (unknown := tf_keras_bridge.strangers(network.model)):
        return
    towers = ", ".join(map(str, network.architecture.towers.values()))
    mine = {layer for _, _, group in network.groups for layer in group.layers}
    if taken := [layer.name for layer in kernels(divided(network.model).above) if layer.name in mine]:
        some = progress.some(unknown)
        progress.say(f"--compress takes {len(taken)} layers of {towers}; what is below {some} stays as it is")
    else:
        raise UserError(
            f"--compress cannot take {towers}, which has layers without a counterpart in Keras 2",
            received=", ".join(unknown),
            allowed="networks of the layers that docs/compression.md lists",
            todo="leave --compress out: tflite(quantize='int8') needs no training",
        )


def compress(
    network: Network, data: Data, compressions: Mapping[str, Compression], context: TrainingContext, calibration: int
) -> Compressed:
    """Runs the compressions of a run, one after the other; without any, the network stays as it is.

    A compression that is done is not run again by the next run in the same work folder; one that was interrupted
    begins anew, from the same weights and with the same samples.
    """
    if not compressions:
        return Compressed(network, None, [])
    import tf_keras

    network = in_float32(network)
    model = folded(network.model)
    parts = divided(model)
    structured = tf_keras_bridge.twin(parts.above)
    # TF-MOT takes no dictionaries; theirs are flattened in the order of their keys.
    twin = tf_keras.Model(structured.inputs, structured.outputs)
    # Its losses are those of the labels alone.
    fed = feed({}, Phase(), data, dataclasses.replace(context, teachers=(), objectives={}))
    # What a layer gives is told by more samples than ranges are.
    examples = [np.asarray(x) for x in parts.seen(data.examples(max(calibration, SAMPLES)))]
    job = _Job(network, parts, fed, examples, data.steps, context.seed)
    histories: list[History] = []
    rounded = None
    specs = list(compressions)
    for position, compression in enumerate(compressions.values()):
        checkpoint = Checkpoint.of(context.workdir, _place(compression, specs[: position + 1], calibration))
        history, rounded = _compressed(twin, compression, job, checkpoint, [done.phase for done in histories])
        histories.append(history)
    tf_keras_bridge.bring_back(twin, parts.above)
    backbones = {
        tower: dataclasses.replace(backbone, inputs=model.input[tower]) for tower, backbone in network.backbones.items()
    }
    smaller = dataclasses.replace(network, model=model, backbones=backbones, shares=None)
    return Compressed(smaller, rounded, histories, parts.sizes if parts.below else None)


@dataclass(frozen=True)
class _Job:
    """What the compressions of a run have in common.

    Attributes:
        network: The trained network.
        parts: It, divided.
        fed: Its batches.
        examples: What the twin takes of calibration samples, one (n, ...) an input.
        steps: Batches an epoch.
        seed: Of the run.
    """

    network: Network
    parts: Divided
    fed: Feed
    examples: list[np.ndarray]
    steps: int
    seed: int


def _compressed(
    twin: Any, compression: Compression, job: _Job, checkpoint: Checkpoint, earlier: list[str]
) -> tuple[History, Rounded | None]:
    """Compresses the twin's weights; what was done, and the rounded graph of `qat()`."""
    import tf_keras

    done, rounds = checkpoint.result(), compression.name == "qat"
    if done and not rounds:  # a rounded graph is more than the network's weights
        twin.set_weights(done[1])
        return done[0], None
    tf_keras.utils.set_random_seed(job.seed)
    started = time.monotonic()
    wrapped = compression.wrap(_copy(twin), compression.epochs * job.steps, job.examples, earlier)
    run = _named(wrapped, job.parts)
    if done:
        wrapped.set_weights(done[1])
        compression.strip(wrapped, twin)
        return done[0], run
    history = _fit(wrapped, run, compression, job)
    compression.strip(wrapped, twin)
    if floats := [layer.name for layer in twin.layers if type(layer).__name__ in compression.inside]:
        history.kept += f"; computed in float inside: {progress.some(floats)}"
    history.seconds = time.monotonic() - started
    checkpoint.finish(history, (wrapped if rounds else twin).get_weights())
    return history, run if rounds else None


def _place(compression: Compression, specs: list[str], calibration: int) -> str:
    """Where a compression keeps its result: another chain, or other options, have another place."""
    digest = hashlib.sha256(f"{', '.join(specs)}; {calibration}".encode()).hexdigest()
    return f"{compression.name}-{digest[:8]}"


def _copy(twin: Any) -> Any:
    """A copy for a compression to take apart; all is trained but normalization, which keeps its statistics."""
    import tf_keras
    from tf_keras.src.applications.convnext import LayerScale

    with tf_keras.utils.custom_object_scope({"LayerScale": LayerScale}):
        copy = tf_keras.models.clone_model(twin)
    for layer in copy.layers:
        layer.set_weights(twin.get_layer(layer.name).get_weights())
        layer.trainable = type(layer).__name__ != "BatchNormalization"
    return copy


def _named(wrapped: Any, parts: Divided) -> Rounded:
    """A model of one output or a list of them as a function from prepared inputs by name to outputs by name."""

    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = wrapped(one_or_all(parts.seen(inputs)), training=False)
        return dict(zip(parts.names, outputs if isinstance(outputs, list) else [outputs], strict=True))

    return run


def _fit(wrapped: Any, run: Rounded, compression: Compression, job: _Job) -> History:
    """Trains a compressed model and leaves it with the weights to be kept."""
    import tf_keras

    history = History(compression.name)
    keeper = _keeper(wrapped, run, compression, job, history)
    history.trained = sum(int(np.prod(weight.shape)) for weight in wrapped.trainable_weights)
    history.parameters = job.network.model.count_params()
    schedule = tf_keras.optimizers.schedules.CosineDecay(compression.learning_rate, compression.epochs * job.steps or 1)
    losses = [_loss(job.network.tasks[name.removesuffix("/logits")].loss) for name in job.parts.names]
    wrapped.compile(tf_keras.optimizers.Adam(schedule, clipnorm=1.0), loss=losses)
    with progress.bar(compression.name, compression.epochs * job.steps) as advance:
        keeper.advance = advance
        if compression.epochs:
            batches = _batches(job.fed, job.parts, compression.epochs)
            _make_variables(wrapped, batches)
            # Kernels have none where the values that they take are trained.
            with unlogged("tensorflow", "Gradients do not exist"):
                wrapped.fit(
                    batches,
                    epochs=compression.epochs,
                    steps_per_epoch=job.steps,
                    callbacks=[*compression.callbacks(), keeper],
                    verbose=0,
                )
        wrapped.set_weights(keeper.weights)
    return history


def _make_variables(wrapped: Any, batches: tf.data.Dataset) -> None:
    """Makes those of optimizer and losses before the first step, which TensorFlow would trace again behind them."""
    wrapped.optimizer.build(wrapped.trainable_variables)
    _, targets, weights = zeros(batches.element_spec)
    wrapped.compiled_loss(list(targets), zeros(wrapped.outputs), list(weights))
    wrapped.reset_metrics()


def _keeper(wrapped: Any, run: Rounded, compression: Compression, job: _Job, history: History) -> Any:
    """The tf_keras callback that judges every epoch and remembers the weights to be kept: the last that are good."""
    import tf_keras

    graph = tf.function(run, autograph=False)

    def scores() -> dict[str, float]:
        return judged(graph, job.network.tasks, job.fed.val)

    class Keeper(tf_keras.callbacks.Callback):
        weights: Weights = wrapped.get_weights()
        advance: Callable[..., None]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.advance(1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not math.isfinite(logs["loss"]):
                todo = f"give {compression.name}() a lower learning_rate"
                raise UserError(f"the loss of epoch {epoch + 1} is not a number", received=logs["loss"], todo=todo)
            found = {"loss": float(logs["loss"])} | scores()
            for name, value in found.items():
                history.metrics.setdefault(name, []).append(value)
            if (now := pair(found)) > history.best or not compression.anytime or not job.fed.val:
                history.best, history.best_epoch = now, epoch
            if now[0] >= history.best[0] - margin(history, job.fed.val):
                self.weights, history.kept, history.result = wrapped.get_weights(), f"epoch {epoch + 1}", now[0]
            shown = "  ".join(f"{k} {v:.3f}" for k, v in found.items() if k in ("loss", "val_score"))
            self.advance(0, f"epoch {epoch + 1}: {shown}")

    history.start = history.best = pair(scores())
    history.kept, history.result = "the start", history.start[0]
    return Keeper()


def _loss(loss: keras.losses.Loss) -> Callable[[Any, Any], Any]:
    """A task's loss a sample, as tf_keras takes it."""
    return lambda target, logits: loss.call(target, logits)


def _batches(fed: Feed, parts: Divided, epochs: int) -> tf.data.Dataset:
    """Training batches with targets and weights in lists; the weights of a batch have mean 1, as in `Task.loss`, or are
    0 where a head is asked about no sample of it.
    """

    def listed(x: dict, y: dict, w: dict) -> tuple:
        weights = tuple(tf.math.divide_no_nan(w[name], tf.reduce_mean(w[name])) for name in parts.names)
        seen = parts.seen(x)
        return tuple(seen) if len(seen) > 1 else seen[0], tuple(y[name] for name in parts.names), weights

    return mapped(fed.batches(0, epochs), listed)
