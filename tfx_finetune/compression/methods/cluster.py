"""Clustering: the weights of a kernel have few distinct values (Han et al., Deep Compression, arXiv 1510.00149)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.reconstruction import KERNEL_LAYERS, fit_kmeans_centroids, quantease, reconstruct_layers
from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression


@COMPRESSIONS.register
def cluster(num_clusters: int = 16, epochs: int = 2, learning_rate: float = 1e-4) -> Compression:
    """Restrict each kernel of a convolution or dense layer to few distinct values, and train the values.

    Training starts from values with which each layer has nearly the same outputs as before. Depthwise kernels and
    biases stay unchanged. Zeros of `prune()` stay zeros. Exported files have the same size and compress better.

    Args:
        num_clusters: int >= 2. Number of distinct values per kernel. Default 16.
        epochs: int >= 0. Number of training epochs; 0 for no training. Default 2.
        learning_rate: float > 0. Peak of the cosine schedule. Default 1e-4.
    """
    if num_clusters < 2 or epochs < 0:
        got = f"num_clusters={num_clusters}, epochs={epochs}"
        raise UserError("Option of cluster() is out of range", got=got, expected="num_clusters from 2, epochs from 0")

    def wrap(tf_keras_model: Any, steps: int, calibration_inputs: Sequence[np.ndarray], previous: Sequence[str]) -> Any:
        solver = partial(quantease, max_values=num_clusters)
        reconstruct_layers(
            tf_keras_model,
            lambda layer: solver if _is_clusterable(layer, num_clusters) else None,
            calibration_inputs,
        )
        return _wrap(tf_keras_model, num_clusters, "prune" in previous)

    return Compression(
        "cluster", epochs, learning_rate, wrap, _strip, list, restore_best_weights=True, num_clusters=num_clusters
    )


def _is_clusterable(layer: Any, num_clusters: int) -> bool:
    return type(layer).__name__ in KERNEL_LAYERS and layer.kernel.shape.num_elements() > num_clusters


def _wrap(tf_keras_model: Any, num_clusters: int, preserve_sparsity: bool) -> Any:
    """Return a copy of a model whose clusterable layers train their cluster values."""
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import ClusterWeights
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    def wrap_layer(layer: Any) -> Any:
        if not _is_clusterable(layer, num_clusters):
            return layer
        return experimental.cluster_weights(layer, num_clusters, preserve_sparsity=preserve_sparsity)

    model = tf_keras.models.clone_model(tf_keras_model, clone_function=wrap_layer)
    for layer in model.layers:
        if isinstance(layer, ClusterWeights):
            _set_centroids(layer)
    return model


def _set_centroids(wrapper: Any) -> None:
    """Set the cluster values of a layer to the values of its kernel; TF-MOT would sample weights as values."""
    kernel, centroids = wrapper.original_clusterable_weights["kernel"].numpy(), wrapper.cluster_centroids["kernel"]
    values = np.unique(kernel)
    if len(values) > centroids.shape[0]:  # the kernel was not reconstructed
        values = fit_kmeans_centroids(kernel, centroids.shape[0])
    centroids.assign(np.pad(values, (0, centroids.shape[0] - len(values)), mode="edge"))
    if wrapper.preserve_sparsity:
        wrapper.zero_idx["kernel"] = tf.constant(int(np.abs(values).argmin()), tf.int64)
        wrapper.sparsity_masks["kernel"] = tf.constant(kernel != 0, tf.float32)


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    """Copy the trained weights to the tf_keras model."""
    from tensorflow_model_optimization.clustering import keras as clustering

    tf_keras_bridge.copy_layer_weights(clustering.strip_clustering(wrapped_model), tf_keras_model)
