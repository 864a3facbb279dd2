"""Clustering: the weights of a kernel take a few values only (Han et al., Deep Compression, arXiv 1510.00149)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.compression.reconstruction import KERNEL_LAYERS, fit_kmeans_centroids, quantease, reconstruct_layers
from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression


@COMPRESSIONS.register
def cluster(num_clusters: int = 16, epochs: int = 2, learning_rate: float = 1e-4) -> Compression:
    """Trains on with the weights of each convolution and dense layer at one of a few values, which are trained.

    They start where each layer gives nearly what it gave (`compression/reconstruction.py`). Depthwise kernels and biases are left as
    they are. Zeros of `prune()` stay zeros. The files are as large as before and compress better.

    Args:
        clusters: Values a kernel, 2 or more.
        epochs: Passes over the training samples; 0 trains nothing.
        learning_rate: Peak of the cosine.
    """
    if num_clusters < 2 or epochs < 0:
        received = f"clusters={num_clusters}, epochs={epochs}"
        raise UserError("cluster is out of range", got=received, expected="clusters from 2, epochs from 0")

    def wrap(twin: Any, steps: int, examples: Sequence[np.ndarray], earlier: Sequence[str]) -> Any:
        reconstruct_layers(
            twin,
            lambda layer: partial(quantease, max_values=num_clusters) if _is_clusterable(layer, num_clusters) else None,
            examples,
        )
        return _wrap(twin, num_clusters, "prune" in earlier)

    return Compression(
        "cluster", epochs, learning_rate, wrap, _strip, list, restore_best_weights=True, num_clusters=num_clusters
    )


def _is_clusterable(layer: Any, num_clusters: int) -> bool:
    return type(layer).__name__ in KERNEL_LAYERS and layer.kernel.shape.num_elements() > num_clusters


def _wrap(tf_keras_model: Any, num_clusters: int, sparse: bool) -> Any:
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import ClusterWeights
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    def wrapped(layer: Any) -> Any:
        if not _is_clusterable(layer, num_clusters):
            return layer
        return experimental.cluster_weights(layer, num_clusters, preserve_sparsity=sparse)

    model = tf_keras.models.clone_model(tf_keras_model, clone_function=wrapped)
    for layer in model.layers:
        if isinstance(layer, ClusterWeights):
            _set_centroids(layer)
    return model


def _set_centroids(wrapper: Any) -> None:
    """Gives a layer the values that its kernel has, where TF-MOT drew some of its weights."""
    kernel, centroids = wrapper.original_clusterable_weights["kernel"].numpy(), wrapper.cluster_centroids["kernel"]
    values = np.unique(kernel)
    if len(values) > centroids.shape[0]:  # of a kernel that was not refitted
        values = fit_kmeans_centroids(kernel, centroids.shape[0])
    centroids.assign(np.pad(values, (0, centroids.shape[0] - len(values)), mode="edge"))
    if wrapper.preserve_sparsity:
        wrapper.zero_idx["kernel"] = tf.constant(int(np.abs(values).argmin()), tf.int64)
        wrapper.sparsity_masks["kernel"] = tf.constant(kernel != 0, tf.float32)


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    from tensorflow_model_optimization.clustering import keras as clustering

    for layer in clustering.strip_clustering(wrapped_model).layers:
        tf_keras_model.get_layer(layer.name).set_weights(layer.get_weights())
