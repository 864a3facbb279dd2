"""A pretrained text tower may give what is for the most part the same for every text; heads see the rest.

Of some sentence vectors that is four fifths, as of e5's (Mu and Viswanath, All-but-the-top, arXiv 1702.01417;
Ethayarajh, arXiv 1909.00512): a head would learn from the little that is left, and hardly. So the mean over training
samples is taken off, measured once, before the first phase, and the rest made as long as the whole was. Where it is
less than half, as of the multilingual universal sentence encoder's, a head does better without: another language has
another mean. Of pictures and sounds it brought nothing.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np

from tfx_finetune.models import split
from tfx_finetune.ops.arrays import take
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK, Backbone, Features

_MAX_SAMPLES = 1_000
_BATCH_SIZE = 50
# Share of the mean square length that is the mean's.
_MIN_MEAN_POWER = 0.5


def list_centering_layers(backbones: Mapping[str, Backbone]) -> dict[str, str]:
    """Names of the layers that centre, by tower."""
    towers = [
        tower
        for tower, each in backbones.items()
        if each.modality == "text" and each.pretrained_cfg.origin and not each.from_scratch
    ]
    return {tower: f"{tower}_centre" if len(backbones) > 1 else "centre" for tower in towers}


def add_centering(backbones: Mapping[str, Backbone], features: Mapping[str, Features]) -> dict[str, Features]:
    """What towers give, that of pretrained text towers through a layer each, which changes nothing as it is built."""
    found = dict(features)
    for tower, name in list_centering_layers(backbones).items():
        # float32: what differs between samples may be little of a number, which eight bits of mantissa lose.
        layer = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=1e-12, trainable=False, dtype="float32", name=name
        )
        found[tower] = features[tower]._replace(pooled=layer(features[tower].pooled))
    return found


def fit_centering(
    model: keras.Model,
    backbones: Mapping[str, Backbone],
    cut_tensors: Mapping[str, split.CutTensors],
    sample_batch: Callable[[int], tuple[Batch, Batch]],
) -> None:
    """Measures what text towers give for up to 1,000 training samples, where nothing was taken off yet.

    Args:
        model: The whole network; statistics of its layers are changed in place.
        backbones: Its towers.
        found: Where they are cut.
        some: Inputs of what lies above the cuts and targets, of up to so many training samples.
    """
    known = {layer.name: layer for layer in model.layers}
    layers = {tower: known[name] for tower, name in list_centering_layers(backbones).items() if name in known}
    fresh = {tower: layer for tower, layer in layers.items() if _is_identity(layer)}
    if not fresh:
        return
    inputs, _ = sample_batch(_MAX_SAMPLES)
    answer = make_predict_fn(
        split.build_trainable_part(model.input, cut_tensors, {tower: layer.output for tower, layer in fresh.items()})
    )
    count = len(next(iter(inputs.values())))
    given = [answer(take(inputs, slice(start, start + _BATCH_SIZE))) for start in range(0, count, _BATCH_SIZE)]
    for at, tower in enumerate(backbones):
        if tower in fresh:
            points = np.concatenate([part[tower] for part in given]).astype(np.float64)
            _fit_layer(fresh[tower], points[inputs[MODALITY_MASK][:, at] > 0] if MODALITY_MASK in inputs else points)


def _fit_layer(layer: keras.Layer, embeddings: np.ndarray) -> None:
    """Has a layer take the mean of points, (n, dim), off, where that is the most of them, but not all."""
    if not len(embeddings):
        return
    mean, rest = embeddings.mean(0), embeddings.var(0).sum()
    whole = rest + (mean**2).sum()
    if 0 < rest < (1 - _MIN_MEAN_POWER) * whole:
        layer.set_weights([mean, np.full(len(mean), rest / whole)])


def _is_identity(layer: keras.Layer) -> bool:
    mean, variance = layer.get_weights()
    return bool((mean == 0).all() and (variance == 1).all())
