"""Mean-centering of pretrained text embeddings.

The embeddings of some text encoders share a large mean vector: four fifths of the mean square length for e5 (Mu and
Viswanath, All-but-the-top, arXiv 1702.01417; Ethayarajh, arXiv 1909.00512). A head would learn slowly from the small
rest. So the mean over training samples is measured once, before the first phase, and subtracted; the result is scaled
to the original root mean square length.

If the mean has less than half of the mean square length, as for the multilingual universal sentence encoder, heads
work better without centering, because each language has another mean. Image and audio towers gained nothing.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np

from tfx_finetune.models.cut import CutTensors, build_trainable_part
from tfx_finetune.ops.arrays import take
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK, Backbone, Features

_LAYER_NAME = "mean_centering"
_MAX_SAMPLES = 1_000
_BATCH_SIZE = 50
# Minimum share of the mean vector in the mean square length.
_MIN_MEAN_POWER = 0.5


def list_centering_layers(backbones: Mapping[str, Backbone]) -> dict[str, str]:
    """Return the names of the centering layers by tower: one for each pretrained text tower.

    Args:
        backbones: Backbones by tower.
    """
    towers = [
        tower
        for tower, backbone in backbones.items()
        if backbone.modality == "text" and backbone.pretrained_cfg.origin and not backbone.from_scratch
    ]
    return {tower: f"{tower}_{_LAYER_NAME}" if len(backbones) > 1 else _LAYER_NAME for tower in towers}


def add_centering(backbones: Mapping[str, Backbone], features: Mapping[str, Features]) -> dict[str, Features]:
    """Add a centering layer, which is the identity until `fit_centering`, behind each pretrained text tower.

    Args:
        backbones: Backbones by tower.
        features: Features by tower.

    Returns:
        Features by tower, with centered pooled features for the pretrained text towers.
    """
    centered = dict(features)
    for tower, name in list_centering_layers(backbones).items():
        # float32, because the differences between samples may be below the precision of bfloat16.
        layer = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=1e-12, trainable=False, dtype="float32", name=name
        )
        centered[tower] = features[tower]._replace(pooled=layer(features[tower].pooled))
    return centered


def fit_centering(
    model: keras.Model,
    backbones: Mapping[str, Backbone],
    cut_tensors: Mapping[str, CutTensors],
    sample_batch: Callable[[int], tuple[Batch, Batch]],
) -> None:
    """Measure the mean and scale of text features on up to 1,000 training samples.

    Centering layers that were fitted before keep their statistics.

    Args:
        model: The whole model; the statistics of its centering layers are changed in place.
        backbones: Backbones by tower.
        cut_tensors: Cut tensors by tower.
        sample_batch: Function of a number of samples that returns inputs of the trainable part, and targets, of at
            most so many training samples.
    """
    layer_by_name = {layer.name: layer for layer in model.layers}
    layers = {
        tower: layer_by_name[name]
        for tower, name in list_centering_layers(backbones).items()
        if name in layer_by_name and _is_identity(layer_by_name[name])
    }
    if not layers:
        return
    inputs, _ = sample_batch(_MAX_SAMPLES)
    outputs = {tower: layer.output for tower, layer in layers.items()}
    predict = make_predict_fn(build_trainable_part(model.input, cut_tensors, outputs))
    count = len(next(iter(inputs.values())))
    batches = [predict(take(inputs, slice(start, start + _BATCH_SIZE))) for start in range(0, count, _BATCH_SIZE)]
    for index, tower in enumerate(backbones):
        if tower in layers:
            embeddings = np.concatenate([batch[tower] for batch in batches]).astype(np.float64)
            if MODALITY_MASK in inputs:
                embeddings = embeddings[inputs[MODALITY_MASK][:, index] > 0]
            _fit_layer(layers[tower], embeddings)


def _fit_layer(layer: keras.Layer, embeddings: np.ndarray) -> None:
    """Set the statistics of a layer from embeddings (n, dim), if their mean dominates and their variance is not 0."""
    if not len(embeddings):
        return
    mean, variance = embeddings.mean(0), embeddings.var(0).sum()
    mean_square = variance + (mean**2).sum()
    if 0 < variance < (1 - _MIN_MEAN_POWER) * mean_square:
        layer.set_weights([mean, np.full(len(mean), variance / mean_square)])


def _is_identity(layer: keras.Layer) -> bool:
    mean, variance = layer.get_weights()
    return bool((mean == 0).all() and (variance == 1).all())
