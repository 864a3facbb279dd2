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
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm
from tfx_finetune.compression.partition import Partition, list_compressible_layers, partition_model
from tfx_finetune.compression.reconstruction import NUM_SAMPLES
from tfx_finetune.compression.tf_keras_bridge import unwrap_single
from tfx_finetune.core import progress
from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.quiet import filter_log
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import to_float32
from tfx_finetune.models.network import Network
from tfx_finetune.ops.tf_data import make_zeros, parallel_map
from tfx_finetune.training.callbacks import one_standard_error, ranking_key, validate
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.phase_data import PhaseData, prepare_phase_data
from tfx_finetune.types.deployment import Compression

QatFn = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class CompressionResult:
    """What compression leaves.

    Attributes:
        network: The network with its new weights; folded where anything was compressed.
        rounded: Prepared inputs by name, (batch, ...) -> {"<head>/logits": ...}, rounded to int8; None without `qat()`.
        histories: What each compression did.
        sizes: How many kernels of each size, in weights, were compressed; None for all that a file has.
    """

    network: Network
    qat_fn: QatFn | None
    histories: list[History]
    kernel_sizes: Counter[int] | None = None


def check_layers(network: Network) -> None:
    """Says, before training, what `--compress` leaves as it is since Keras 2 lacks the layers.

    Raises:
        UserError: That is all of the towers.
    """
    if not (unknown := tf_keras_bridge.list_unsupported_layers(network.model)):
        return
    towers = ", ".join(map(str, network.architecture.towers.values()))
    mine = {layer for _, _, group in network.groups for layer in group.layers}
    if taken := [
        layer.name for layer in list_compressible_layers(partition_model(network.model).suffix) if layer.name in mine
    ]:
        some = progress.shorten_list(unknown)
        progress.log(f"--compress takes {len(taken)} layers of {towers}; what is below {some} stays as it is")
    else:
        raise UserError(
            f"--compress cannot take {towers}, which has layers without a counterpart in Keras 2",
            got=", ".join(unknown),
            expected="networks of the layers that docs/compression.md lists",
            hint="leave --compress out: tflite(quantize='int8') needs no training",
        )


def compress(
    network: Network, data: Data, compressions: Mapping[str, Compression], context: TrainingContext, calibration: int
) -> CompressionResult:
    """Runs the compressions of a run, one after the other; without any, the network stays as it is.

    A compression that is done is not run again by the next run in the same work folder; one that was interrupted
    begins anew, from the same weights and with the same samples.
    """
    if not compressions:
        return CompressionResult(network, None, [])
    import tf_keras

    network = to_float32(network)
    model = fold_batch_norm(network.model)
    parts = partition_model(model)
    structured = tf_keras_bridge.to_tf_keras(parts.suffix)
    # TF-MOT takes no dictionaries; theirs are flattened in the order of their keys.
    twin = tf_keras.Model(structured.inputs, structured.outputs)
    # Its losses are those of the labels alone.
    fed = prepare_phase_data({}, Phase(), data, dataclasses.replace(context, teachers=(), auxiliary_losses={}))
    # What a layer gives is told by more samples than ranges are.
    examples = [
        np.asarray(x) for x in parts.compute_suffix_inputs(data.representative_dataset(max(calibration, NUM_SAMPLES)))
    ]
    job = _CompressionContext(network, parts, fed, examples, data.steps, context.seed)
    histories: list[History] = []
    rounded = None
    specs = list(compressions)
    for position, compression in enumerate(compressions.values()):
        checkpoint = Checkpoint.for_phase(
            context.workdir, _checkpoint_name(compression, specs[: position + 1], calibration)
        )
        history, rounded = _run_compression(twin, compression, job, checkpoint, [done.phase for done in histories])
        histories.append(history)
    tf_keras_bridge.copy_weights_back(twin, parts.suffix)
    backbones = {
        tower: dataclasses.replace(backbone, inputs=model.input[tower]) for tower, backbone in network.backbones.items()
    }
    smaller = dataclasses.replace(network, model=model, backbones=backbones, gate_weights=None)
    return CompressionResult(smaller, rounded, histories, parts.kernel_sizes if parts.prefix else None)


@dataclass(frozen=True)
class _CompressionContext:
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
    partition: Partition
    phase_data: PhaseData
    representative_dataset: list[np.ndarray]
    steps_per_epoch: int
    seed: int


def _run_compression(
    twin: Any, compression: Compression, context: _CompressionContext, checkpoint: Checkpoint, previous_names: list[str]
) -> tuple[History, QatFn | None]:
    """Compresses the twin's weights; what was done, and the rounded graph of `qat()`."""
    import tf_keras

    done, rounds = checkpoint.load_result(), compression.name == "qat"
    if done and not rounds:  # a rounded graph is more than the network's weights
        twin.set_weights(done[1])
        return done[0], None
    tf_keras.utils.set_random_seed(context.seed)
    started = time.monotonic()
    wrapped = compression.wrap(
        _clone_trainable(twin),
        compression.epochs * context.steps_per_epoch,
        context.representative_dataset,
        previous_names,
    )
    run = _make_named_fn(wrapped, context.partition)
    if done:
        wrapped.set_weights(done[1])
        compression.strip(wrapped, twin)
        return done[0], run
    history = _fit(wrapped, run, compression, context)
    compression.strip(wrapped, twin)
    if floats := [layer.name for layer in twin.layers if type(layer).__name__ in compression.float_layers]:
        history.selection += f"; computed in float inside: {progress.shorten_list(floats)}"
    history.seconds = time.monotonic() - started
    checkpoint.finish(history, (wrapped if rounds else twin).get_weights())
    return history, run if rounds else None


def _checkpoint_name(compression: Compression, specs: list[str], calibration: int) -> str:
    """Where a compression keeps its result: another chain, or other options, have another place."""
    digest = hashlib.sha256(f"{', '.join(specs)}; {calibration}".encode()).hexdigest()
    return f"{compression.name}-{digest[:8]}"


def _clone_trainable(twin: Any) -> Any:
    """A copy for a compression to take apart; all is trained but normalization, which keeps its statistics."""
    import tf_keras
    from tf_keras.src.applications.convnext import LayerScale

    with tf_keras.utils.custom_object_scope({"LayerScale": LayerScale}):
        copy = tf_keras.models.clone_model(twin)
    for layer in copy.layers:
        layer.set_weights(twin.get_layer(layer.name).get_weights())
        layer.trainable = type(layer).__name__ != "BatchNormalization"
    return copy


def _make_named_fn(wrapped: Any, partition: Partition) -> QatFn:
    """A model of one output or a list of them as a function from prepared inputs by name to outputs by name."""

    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = wrapped(unwrap_single(partition.compute_suffix_inputs(inputs)), training=False)
        return dict(zip(partition.output_names, outputs if isinstance(outputs, list) else [outputs], strict=True))

    return run


def _fit(wrapped: Any, predict: QatFn, compression: Compression, context: _CompressionContext) -> History:
    """Trains a compressed model and leaves it with the weights to be kept."""
    import tf_keras

    history = History(compression.name)
    keeper = _make_best_weights_callback(wrapped, predict, compression, context, history)
    history.trained_parameters = sum(int(np.prod(weight.shape)) for weight in wrapped.trainable_weights)
    history.parameters = context.network.model.count_params()
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        compression.learning_rate, compression.epochs * context.steps_per_epoch or 1
    )
    losses = [
        _to_tf_keras_loss(context.network.tasks[name.removesuffix("/logits")].loss)
        for name in context.partition.output_names
    ]
    wrapped.compile(tf_keras.optimizers.Adam(schedule, clipnorm=1.0), loss=losses)
    with progress.bar(compression.name, compression.epochs * context.steps_per_epoch) as advance:
        keeper.advance = advance
        if compression.epochs:
            batches = _make_training_batches(context.phase_data, context.partition, compression.epochs)
            _make_variables(wrapped, batches)
            # Kernels have none where the values that they take are trained.
            with filter_log("tensorflow", "Gradients do not exist"):
                wrapped.fit(
                    batches,
                    epochs=compression.epochs,
                    steps_per_epoch=context.steps_per_epoch,
                    callbacks=[*compression.callbacks(), keeper],
                    verbose=0,
                )
        wrapped.set_weights(keeper.weights)
    return history


def _make_variables(wrapped: Any, batches: tf.data.Dataset) -> None:
    """Makes those of optimizer and losses before the first step, which TensorFlow would trace again behind them."""
    wrapped.optimizer.build(wrapped.trainable_variables)
    _, targets, weights = make_zeros(batches.element_spec)
    wrapped.compiled_loss(list(targets), make_zeros(wrapped.outputs), list(weights))
    wrapped.reset_metrics()


def _make_best_weights_callback(
    wrapped: Any, predict: QatFn, compression: Compression, context: _CompressionContext, history: History
) -> Any:
    """The tf_keras callback that judges every epoch and remembers the weights to be kept: the last that are good."""
    import tf_keras

    graph = tf.function(predict, autograph=False)

    def scores() -> dict[str, float]:
        return validate(graph, context.network.tasks, context.phase_data.val)

    class Keeper(tf_keras.callbacks.Callback):
        weights: Weights = wrapped.get_weights()
        advance: Callable[..., None]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.advance(1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not math.isfinite(logs["loss"]):
                todo = f"give {compression.name}() a lower learning_rate"
                raise UserError(f"the loss of epoch {epoch + 1} is not a number", got=logs["loss"], hint=todo)
            found = {"loss": float(logs["loss"])} | scores()
            for name, value in found.items():
                history.metrics.setdefault(name, []).append(value)
            if (
                (now := ranking_key(found)) > history.best
                or not compression.restore_best_weights
                or not context.phase_data.val
            ):
                history.best, history.best_epoch = now, epoch
            if now[0] >= history.best[0] - one_standard_error(history, context.phase_data.val):
                self.weights, history.selection, history.val_score = wrapped.get_weights(), f"epoch {epoch + 1}", now[0]
            shown = "  ".join(f"{k} {v:.3f}" for k, v in found.items() if k in ("loss", "val_score"))
            self.advance(0, f"epoch {epoch + 1}: {shown}")

    history.start = history.best = ranking_key(scores())
    history.selection, history.val_score = "the start", history.start[0]
    return Keeper()


def _to_tf_keras_loss(loss: keras.losses.Loss) -> Callable[[Any, Any], Any]:
    """A task's loss a sample, as tf_keras takes it."""
    return lambda target, logits: loss.call(target, logits)


def _make_training_batches(phase_data: PhaseData, partition: Partition, epochs: int) -> tf.data.Dataset:
    """Training batches with targets and weights in lists; the weights of a batch have mean 1, as in `Task.loss`, or are
    0 where a head is asked about no sample of it.
    """

    def listed(x: dict, y: dict, w: dict) -> tuple:
        weights = tuple(tf.math.divide_no_nan(w[name], tf.reduce_mean(w[name])) for name in partition.output_names)
        seen = partition.compute_suffix_inputs(x)
        return tuple(seen) if len(seen) > 1 else seen[0], tuple(y[name] for name in partition.output_names), weights

    return parallel_map(phase_data.training_batches(0, epochs), listed)
