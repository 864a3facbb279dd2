"""Clustering: the weights of a kernel take a few values only (Han et al., Deep Compression, arXiv 1510.00149)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.compression.reconstruction import KERNELS, means, refit, rounded
from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression


@COMPRESSIONS.register
def cluster(clusters: int = 16, epochs: int = 2, learning_rate: float = 1e-4) -> Compression:
    """Trains on with the weights of each convolution and dense layer at one of a few values, which are trained.

    They start where each layer gives nearly what it gave (`compression/reconstruction.py`). Depthwise kernels and biases are left as
    they are. Zeros of `prune()` stay zeros. The files are as large as before and compress better.

    Args:
        clusters: Values a kernel, 2 or more.
        epochs: Passes over the training samples; 0 trains nothing.
        learning_rate: Peak of the cosine.
    """
    if clusters < 2 or epochs < 0:
        received = f"clusters={clusters}, epochs={epochs}"
        raise UserError("cluster is out of range", received=received, allowed="clusters from 2, epochs from 0")

    def wrap(twin: Any, steps: int, examples: Sequence[np.ndarray], earlier: Sequence[str]) -> Any:
        refit(twin, lambda layer: partial(rounded, count=clusters) if _clustered(layer, clusters) else None, examples)
        return _wrap(twin, clusters, "prune" in earlier)

    return Compression("cluster", epochs, learning_rate, wrap, _strip, list, anytime=True, clusters=clusters)


def _clustered(layer: Any, clusters: int) -> bool:
    return type(layer).__name__ in KERNELS and layer.kernel.shape.num_elements() > clusters


def _wrap(twin: Any, clusters: int, sparse: bool) -> Any:
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import ClusterWeights
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    def wrapped(layer: Any) -> Any:
        if not _clustered(layer, clusters):
            return layer
        return experimental.cluster_weights(layer, clusters, preserve_sparsity=sparse)

    model = tf_keras.models.clone_model(twin, clone_function=wrapped)
    for layer in model.layers:
        if isinstance(layer, ClusterWeights):
            _begin(layer)
    return model


def _begin(wrapper: Any) -> None:
    """Gives a layer the values that its kernel has, where TF-MOT drew some of its weights."""
    kernel, centroids = wrapper.original_clusterable_weights["kernel"].numpy(), wrapper.cluster_centroids["kernel"]
    values = np.unique(kernel)
    if len(values) > centroids.shape[0]:  # of a kernel that was not refitted
        values = means(kernel, centroids.shape[0])
    centroids.assign(np.pad(values, (0, centroids.shape[0] - len(values)), mode="edge"))
    if wrapper.preserve_sparsity:
        wrapper.zero_idx["kernel"] = tf.constant(int(np.abs(values).argmin()), tf.int64)
        wrapper.sparsity_masks["kernel"] = tf.constant(kernel != 0, tf.float32)


def _strip(wrapped: Any, twin: Any) -> None:
    from tensorflow_model_optimization.clustering import keras as clustering

    for layer in clustering.strip_clustering(wrapped).layers:
        twin.get_layer(layer.name).set_weights(layer.get_weights())
