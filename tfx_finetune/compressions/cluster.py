"""Clustering: the weights of a kernel take a few values only (Han et al., Deep Compression, arXiv 1510.00149)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfx_finetune.contracts import COMPRESSIONS
from tfx_finetune.core.errors import UserError
from tfx_finetune.deployed import Compression


@COMPRESSIONS.register
def cluster(clusters: int = 16, epochs: int = 2, learning_rate: float = 1e-4) -> Compression:
    """Trains on with the weights of each convolution and dense layer at the nearest of a few values, which are trained.

    Depthwise kernels and biases are left as they are. Zeros of `prune()` stay zeros. The files are as large as before
    and compress better.

    Args:
        clusters: Values a kernel.
        epochs: Passes over the training samples.
        learning_rate: Peak of the cosine.
    """
    if clusters < 2 or epochs < 1:
        received = f"clusters={clusters}, epochs={epochs}"
        raise UserError("cluster is out of range", received=received, allowed="clusters from 2, epochs from 1")

    def wrap(twin: Any, steps: int, examples: Sequence[np.ndarray], earlier: Sequence[str]) -> Any:
        return _wrap(twin, clusters, "prune" in earlier)

    return Compression("cluster", epochs, learning_rate, wrap, _strip, list, clusters=clusters)


def _wrap(twin: Any, clusters: int, sparse: bool) -> Any:
    import tf_keras
    from tensorflow_model_optimization.clustering import keras as clustering
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    options = {
        "number_of_clusters": clusters,
        "cluster_centroids_init": clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
    }

    def wrapped(layer: Any) -> Any:
        if type(layer).__name__ not in ("Conv2D", "Dense") or layer.kernel.shape.num_elements() <= clusters:
            return layer
        if sparse:
            return experimental.cluster_weights(layer, preserve_sparsity=True, **options)
        return clustering.cluster_weights(layer, **options)

    return tf_keras.models.clone_model(twin, clone_function=wrapped)


def _strip(wrapped: Any, twin: Any) -> None:
    from tensorflow_model_optimization.clustering import keras as clustering

    for layer in clustering.strip_clustering(wrapped).layers:
        twin.get_layer(layer.name).set_weights(layer.get_weights())
