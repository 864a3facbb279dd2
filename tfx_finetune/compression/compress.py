"""Compression of the trained network with TF-MOT, which trains it further.

TF-MOT accepts Keras 2 models only. So batch normalization is folded as in deployment, the network is rebuilt in
tf_keras and compressed there, and the weights are copied back. The graph of quantization-aware training is kept for the
int8 file.
"""

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.finetune import CompressionContext, finetune_compressed
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm
from tfx_finetune.compression.partition import Partition, list_compressible_layers, partition_model
from tfx_finetune.compression.reconstruction import NUM_SAMPLES
from tfx_finetune.compression.tf_keras_bridge import unwrap_single
from tfx_finetune.core import progress
from tfx_finetune.core.config import Phase
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import to_float32
from tfx_finetune.models.network import Network
from tfx_finetune.training.checkpoint import Checkpoint, History
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.types.deployment import Compression

QatFn = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]
"""Function from preprocessed inputs (batch, ...) by name to `<head>/logits`, with the rounding of int8."""


@dataclass(frozen=True)
class CompressionResult:
    """Compressed network.

    Attributes:
        network: The network with compressed weights and folded batch normalization; unchanged without compressions.
        qat_fn: Function that computes the network with the rounding of int8, or None without `qat()`.
        histories: History of each compression.
        kernel_sizes: Number of compressed kernels by number of weights, or None if all kernels are compressed.
    """

    network: Network
    qat_fn: QatFn | None
    histories: list[History]
    kernel_sizes: Counter[int] | None = None


def check_layers(network: Network) -> None:
    """Check that the towers have layers that can be compressed, and log the layers that cannot.

    Args:
        network: The whole model before training.

    Raises:
        UserError: If no layer of the towers can be compressed.
    """
    if not (unsupported := tf_keras_bridge.list_unsupported_layers(network.model)):
        return
    towers = ", ".join(map(str, network.architecture.towers.values()))
    tower_layers = {layer for _, _, group in network.groups for layer in group.layers}
    compressible = list_compressible_layers(partition_model(network.model).suffix)
    if count := sum(layer.name in tower_layers for layer in compressible):
        layers = progress.shorten_list(unsupported)
        progress.log(f"--compress compresses {count} layers of {towers}; layers at and below {layers} stay unchanged")
    else:
        raise UserError(
            f"--compress does not support {towers}, which has layers that Keras 2 lacks",
            got=", ".join(unsupported),
            expected="a network of the layers that docs/how-to/compress.md lists",
            hint="Leave --compress out; tflite(quantize='int8') needs no training",
        )


def compress(
    network: Network,
    data: Data,
    compressions: Mapping[str, Compression],
    context: TrainingContext,
    calibration_samples: int,
) -> CompressionResult:
    """Run the compressions of a run one after another; without any, the network stays unchanged.

    A compression that is done is not repeated by the next run in the same work folder. An interrupted compression
    starts again from the same weights and with the same samples.

    Args:
        network: The trained network.
        data: Samples of all splits.
        compressions: Compressions by spec, in order.
        context: Settings of the run.
        calibration_samples: Number of calibration samples.
    """
    if not compressions:
        return CompressionResult(network, None, [])
    import tf_keras

    network = to_float32(network)
    model = fold_batch_norm(network.model)
    partition = partition_model(model)
    with_names = tf_keras_bridge.to_tf_keras(partition.suffix)
    # TF-MOT accepts no dictionaries; they are flattened in the order of their keys.
    tf_keras_model = tf_keras.Model(with_names.inputs, with_names.outputs)
    # The losses are those of the labels only.
    label_context = dataclasses.replace(context, teachers=(), auxiliary_losses={})
    phase_data = prepare_phase_data({}, Phase(), data, label_context)
    # Reconstruction of layers needs more samples than calibration.
    samples = data.representative_dataset(max(calibration_samples, NUM_SAMPLES))
    calibration_inputs = [np.asarray(x) for x in partition.compute_suffix_inputs(samples)]
    job = CompressionContext(network, partition, phase_data, calibration_inputs)
    histories: list[History] = []
    qat_fn = None
    specs = list(compressions)
    for position, compression in enumerate(compressions.values()):
        name = _checkpoint_name(compression, specs[: position + 1], calibration_samples)
        checkpoint = Checkpoint.for_phase(context.workdir, name)
        previous = [history.phase for history in histories]
        history, qat_fn = _run_compression(tf_keras_model, compression, job, checkpoint, previous)
        histories.append(history)
    tf_keras_bridge.copy_weights_back(tf_keras_model, partition.suffix)
    backbones = {
        tower: dataclasses.replace(backbone, inputs=model.input[tower]) for tower, backbone in network.backbones.items()
    }
    compressed = dataclasses.replace(network, model=model, backbones=backbones, gate_weights=None)
    return CompressionResult(compressed, qat_fn, histories, partition.kernel_sizes if partition.prefix else None)


def _run_compression(
    tf_keras_model: Any,
    compression: Compression,
    context: CompressionContext,
    checkpoint: Checkpoint,
    previous: list[str],
) -> tuple[History, QatFn | None]:
    """Compress the weights of a tf_keras model in place.

    Args:
        tf_keras_model: The network in tf_keras.
        compression: The compression.
        context: Inputs of all compressions of the run.
        checkpoint: Folder of the result.
        previous: Names of the compressions before this one.

    Returns:
        The history, and the function with the rounding of int8 if the compression is `qat()`.
    """
    import tf_keras

    result, is_qat = checkpoint.load_result(), compression.name == "qat"
    if result and not is_qat:  # the graph of qat() has ranges, which are not weights of the network
        tf_keras_model.set_weights(result[1])
        return result[0], None
    tf_keras.utils.set_random_seed(context.phase_data.context.seed)
    start_time = time.monotonic()
    steps = compression.epochs * context.phase_data.data.steps
    copy = _clone_trainable(tf_keras_model)
    wrapped = compression.wrap(copy, steps, context.calibration_inputs, previous)
    predict = _make_named_fn(wrapped, context.partition)
    if result:
        wrapped.set_weights(result[1])
        compression.strip(wrapped, tf_keras_model)
        return result[0], predict
    history = finetune_compressed(wrapped, predict, compression, context)
    compression.strip(wrapped, tf_keras_model)
    if float_layers := _list_layers_of_types(tf_keras_model, compression.float_layers):
        history.selection += f"; float arithmetic in {progress.shorten_list(float_layers)}"
    history.seconds = time.monotonic() - start_time
    checkpoint.finish(history, (wrapped if is_qat else tf_keras_model).get_weights())
    return history, predict if is_qat else None


def _list_layers_of_types(tf_keras_model: Any, type_names: Sequence[str]) -> list[str]:
    return [layer.name for layer in tf_keras_model.layers if type(layer).__name__ in type_names]


def _checkpoint_name(compression: Compression, specs: list[str], calibration_samples: int) -> str:
    """Return the name of a compression's checkpoint, which depends on the compressions up to it and their options."""
    digest = hashlib.sha256(f"{', '.join(specs)}; {calibration_samples}".encode()).hexdigest()
    return f"{compression.name}-{digest[:8]}"


def _clone_trainable(tf_keras_model: Any) -> Any:
    """Return a copy whose layers are all trainable except batch normalization, whose statistics stay unchanged."""
    import tf_keras
    from tf_keras.src.applications.convnext import LayerScale

    with tf_keras.utils.custom_object_scope({"LayerScale": LayerScale}):
        copy = tf_keras.models.clone_model(tf_keras_model)
    tf_keras_bridge.copy_layer_weights(tf_keras_model, copy)
    for layer in copy.layers:
        layer.trainable = type(layer).__name__ != "BatchNormalization"
    return copy


def _make_named_fn(wrapped_model: Any, partition: Partition) -> QatFn:
    """Return a function from preprocessed inputs by name to the outputs by name of a tf_keras model."""

    def predict(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = wrapped_model(unwrap_single(partition.compute_suffix_inputs(inputs)), training=False)
        return dict(zip(partition.output_names, outputs if isinstance(outputs, list) else [outputs], strict=True))

    return predict
