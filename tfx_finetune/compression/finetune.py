"""Fine-tuning of a compressed tf_keras model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.compression.partition import Partition
from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.quiet import filter_log
from tfx_finetune.models.network import Network
from tfx_finetune.ops.tf_data import make_zeros, parallel_map
from tfx_finetune.training.callbacks import format_epoch, one_standard_error, ranking_key, validate
from tfx_finetune.training.checkpoint import History, Weights
from tfx_finetune.training.phase_data import PhaseData
from tfx_finetune.types.deployment import Compression


@dataclass(frozen=True)
class CompressionContext:
    """Inputs of all compressions of a run.

    Attributes:
        network: The trained network.
        partition: The network, divided into a part that stays unchanged and a part that is compressed.
        phase_data: Training and validation data.
        calibration_inputs: Inputs (n, ...) of the compressed part for calibration samples, in its order.
    """

    network: Network
    partition: Partition
    phase_data: PhaseData
    calibration_inputs: list[np.ndarray]


def finetune_compressed(
    wrapped_model: Any,
    predict: Callable[[dict[str, tf.Tensor]], Mapping[str, tf.Tensor]],
    compression: Compression,
    context: CompressionContext,
) -> History:
    """Train a compressed model and leave it with the selected weights.

    Args:
        wrapped_model: tf_keras model with the layers of the compression.
        predict: Function from preprocessed inputs by name to outputs by name of this model.
        compression: The compression.
        context: Inputs of all compressions of the run.

    Raises:
        UserError: If the loss is not a finite number.
    """
    import tf_keras

    history = History(compression.name)
    best_weights = _make_best_weights_callback(wrapped_model, predict, compression, context, history)
    history.trained_parameters = sum(int(np.prod(weight.shape)) for weight in wrapped_model.trainable_weights)
    history.parameters = context.network.model.count_params()
    total_steps = compression.epochs * context.phase_data.data.steps
    schedule = tf_keras.optimizers.schedules.CosineDecay(compression.learning_rate, total_steps or 1)
    losses = [
        _to_tf_keras_loss(context.network.tasks[name.removesuffix("/logits")].loss)
        for name in context.partition.output_names
    ]
    wrapped_model.compile(tf_keras.optimizers.Adam(schedule, clipnorm=1.0), loss=losses)
    with progress.bar(compression.name, total_steps) as advance:
        best_weights.advance = advance
        if compression.epochs:
            batches = _make_training_batches(context.phase_data, context.partition, compression.epochs)
            _build_optimizer_and_losses(wrapped_model, batches)
            # Kernels of clustered layers have no gradients, because their centroids are trained.
            with filter_log("tensorflow", "Gradients do not exist"):
                wrapped_model.fit(
                    batches,
                    epochs=compression.epochs,
                    steps_per_epoch=context.phase_data.data.steps,
                    callbacks=[*compression.callbacks(), best_weights],
                    verbose=0,
                )
        wrapped_model.set_weights(best_weights.weights)
    return history


def _build_optimizer_and_losses(wrapped_model: Any, batches: tf.data.Dataset) -> None:
    """Create the variables of optimizer and losses before the first step, which TensorFlow would trace twice."""
    wrapped_model.optimizer.build(wrapped_model.trainable_variables)
    _, targets, weights = make_zeros(batches.element_spec)
    wrapped_model.compiled_loss(list(targets), make_zeros(wrapped_model.outputs), list(weights))
    wrapped_model.reset_metrics()


def _make_best_weights_callback(
    wrapped_model: Any, predict: Callable, compression: Compression, context: CompressionContext, history: History
) -> Any:
    """Return the tf_keras callback that validates every epoch and stores the selected weights.

    The last epoch whose score is within one standard error of the best score is selected.
    """
    import tf_keras

    graph_fn = tf.function(predict, autograph=False)

    def compute_metrics() -> dict[str, float]:
        return validate(graph_fn, context.network.tasks, context.phase_data.val)

    class BestWeights(tf_keras.callbacks.Callback):
        weights: Weights = wrapped_model.get_weights()
        advance: Callable[..., None]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.advance(1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not math.isfinite(logs["loss"]):
                hint = f"Give {compression.name}() a lower learning_rate"
                raise UserError(f"Loss of epoch {epoch + 1} is not a finite number", got=logs["loss"], hint=hint)
            metrics = {"loss": float(logs["loss"])} | compute_metrics()
            for name, value in metrics.items():
                history.metrics.setdefault(name, []).append(value)
            key, val = ranking_key(metrics), context.phase_data.val
            if key > history.best or not compression.restore_best_weights or not val:
                history.best, history.best_epoch = key, epoch
            if key[0] >= history.best[0] - one_standard_error(history, val):
                self.weights = wrapped_model.get_weights()
                history.selection, history.val_score = f"epoch {epoch + 1}", key[0]
            self.advance(0, format_epoch(epoch, metrics))

    history.start = history.best = ranking_key(compute_metrics())
    history.selection, history.val_score = "initial weights", history.start[0]
    return BestWeights()


def _to_tf_keras_loss(loss: keras.losses.Loss) -> Callable[[Any, Any], Any]:
    """Return the per-sample loss of a Keras 3 loss as a loss function of tf_keras."""
    return lambda target, logits: loss.call(target, logits)


def _make_training_batches(phase_data: PhaseData, partition: Partition, epochs: int) -> tf.data.Dataset:
    """Return training batches of the compressed part, with targets and sample weights as tuples.

    The sample weights of a batch have mean 1, as in `Task.loss`, or are 0 if no sample has a label for the head.
    """

    def to_tuples(inputs: dict, targets: dict, weights: dict) -> tuple:
        names = partition.output_names
        normalized = tuple(tf.math.divide_no_nan(weights[name], tf.reduce_mean(weights[name])) for name in names)
        suffix_inputs = partition.compute_suffix_inputs(inputs)
        first = tuple(suffix_inputs) if len(suffix_inputs) > 1 else suffix_inputs[0]
        return first, tuple(targets[name] for name in names), normalized

    return parallel_map(phase_data.training_batches(0, epochs), to_tuples)
