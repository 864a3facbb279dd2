"""Mean-centering of pretrained text embeddings: measured once, before a head reads them."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.helpers.towers import batch
from tfx_finetune.models.backbones.graph import add_prefix
from tfx_finetune.models.cut import find_cut_tensors
from tfx_finetune.models.mean_centering import add_centering, fit_centering, list_centering_layers
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.types.components import BACKBONES, MODALITY_MASK


def tower(origin="somewhere"):
    """Return a text tower that counts as pretrained, with features far from 0, like those of sentence encoders."""
    backbone = BACKBONES["bag_of_embeddings"](size=16)
    shifted = keras.layers.Rescaling(2.0, 5.0)(backbone.features.pooled)
    cfg = dataclasses.replace(backbone.pretrained_cfg, origin=origin)
    return dataclasses.replace(backbone, pretrained_cfg=cfg, features=backbone.features._replace(pooled=shifted))


def network(backbones):
    """Build a model from the towers' inputs to the features that heads read."""
    inputs = {name: backbone.inputs for name, backbone in backbones.items()}
    if len(backbones) > 1:
        inputs[MODALITY_MASK] = keras.Input((len(backbones),), name=MODALITY_MASK)
    centered = add_centering(backbones, {name: backbone.features for name, backbone in backbones.items()})
    return build_submodel(inputs, {name: features.pooled for name, features in centered.items()})


def cut_frozen(backbones):
    """Return the cut tensors of frozen towers."""
    return {name: find_cut_tensors(backbone, 0, False, (), True) for name, backbone in backbones.items()}


def test_the_mean_of_training_samples_is_subtracted():
    """Centered features have mean 0 and the original root mean square length."""
    backbones = {"text": tower()}
    model, points = network(backbones), np.random.default_rng(0).normal(3.0, [[0.1] * 32 + [0.2] * 32], (500, 64))
    fit_centering(
        model, backbones, cut_frozen(backbones), lambda count: ({"text": points.astype(np.float32)[:count]}, {})
    )
    centered = model.get_layer("mean_centering")(points.astype(np.float32)).numpy()
    rest = points - points.mean(0)
    scale = np.sqrt((points**2).sum(1).mean() / (rest**2).sum(1).mean())
    np.testing.assert_allclose(centered, rest * scale, atol=1e-3)
    assert (centered**2).sum(1).mean() == pytest.approx((points**2).sum(1).mean(), rel=1e-4)


def test_a_small_mean_is_not_subtracted():
    """The mean is below half of the mean square length."""
    backbones = {"text": tower()}
    model, points = network(backbones), np.random.default_rng(0).normal(0.9, 1, (500, 64)).astype(np.float32)
    fit_centering(model, backbones, cut_frozen(backbones), lambda count: ({"text": points}, {}))
    np.testing.assert_allclose(model.get_layer("mean_centering")(points), points, rtol=1e-5)


def test_fitted_statistics_stay():
    """A later phase, or the bundle of --init, does not measure again."""
    backbones = {"text": tower()}
    model = network(backbones)
    first, second = np.random.default_rng(0).normal(3, 1, (2, 50, 64)).astype(np.float32)
    for points in (first, second):
        fit_centering(model, backbones, cut_frozen(backbones), lambda count, points=points: ({"text": points}, {}))
    np.testing.assert_allclose(model.get_layer("mean_centering").moving_mean, first.mean(0), rtol=1e-4, atol=1e-6)


def test_a_trained_tower_is_measured_through_its_layers():
    """The trainable part computes the features if there is no trunk."""
    backbones = {"text": tower()}
    model, tokens = network(backbones), batch(backbones["text"], 40)
    features = keras.Model(backbones["text"].inputs, backbones["text"].features.pooled)(tokens).numpy()
    fit_centering(model, backbones, {}, lambda count: ({"text": tokens}, {}))
    np.testing.assert_allclose(model.get_layer("mean_centering").moving_mean, features.mean(0), rtol=1e-5)


def test_samples_without_text_do_not_count():
    """Their input is zeros."""
    backbones = {name: add_prefix(tower(), name) for name in ("one", "other")}
    model = network(backbones)
    points = np.random.default_rng(0).normal(4, 1, (20, 64)).astype(np.float32)
    mask = np.ones((20, 2), np.float32)
    mask[10:, 1] = 0
    inputs = {"one": points, "other": points * mask[:, 1:], MODALITY_MASK: mask}
    fit_centering(model, backbones, cut_frozen(backbones), lambda count: (inputs, {}))
    np.testing.assert_allclose(model.get_layer("one_mean_centering").moving_mean, points.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.get_layer("other_mean_centering").moving_mean, points[:10].mean(0), rtol=1e-5)


@pytest.mark.parametrize("mask", [[1, 1], [1, 0]], ids=["constant", "missing"])
def test_constant_features_are_not_centered(mask):
    """A variance of 0 would scale to infinity."""
    backbones = {name: add_prefix(tower(), name) for name in ("one", "other")}
    model = network(backbones)
    points = np.random.default_rng(0).normal(3, 1, (9, 64))
    inputs = {"one": points, "other": np.full((9, 64), 2.0), MODALITY_MASK: np.tile(mask, (9, 1))}
    fit_centering(model, backbones, cut_frozen(backbones), lambda count: (inputs, {}))
    assert (model.get_layer("other_mean_centering").moving_mean.numpy() == 0).all()
    assert (model.get_layer("one_mean_centering").moving_mean.numpy() != 0).all()


def test_only_pretrained_text_towers_are_centered():
    """Image towers and randomly initialized towers are not."""
    towers = {"photo": BACKBONES["convnet"](size=32), "random": tower(origin="")}
    assert list_centering_layers(towers) == {}
    assert list_centering_layers({"a": tower()} | towers) == {"a": "a_mean_centering"}
