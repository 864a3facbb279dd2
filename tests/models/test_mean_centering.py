"""What is the same for every text is taken off what pretrained text towers give, before a head sees it, once."""

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
    """A text tower that passes for a pretrained one; what it gives is far from 0, as sentence vectors are."""
    backbone = BACKBONES["bag_of_embeddings"](size=16)
    moved = keras.layers.Rescaling(2.0, 5.0)(backbone.features.pooled)
    card = dataclasses.replace(backbone.card, origin=origin)
    return dataclasses.replace(backbone, card=card, features=backbone.features._replace(pooled=moved))


def network(backbones):
    """A model that gives what heads would see of each tower."""
    inputs = {name: backbone.inputs for name, backbone in backbones.items()}
    if len(backbones) > 1:
        inputs[MODALITY_MASK] = keras.Input((len(backbones),), name=MODALITY_MASK)
    given = add_centering(backbones, {name: backbone.features for name, backbone in backbones.items()})
    return build_submodel(inputs, {name: features.pooled for name, features in given.items()})


def frozen(backbones):
    """Where towers are cut that are frozen."""
    return {name: find_cut_tensors(backbone, 0, False, (), True) for name, backbone in backbones.items()}


def test_the_mean_of_training_samples_is_taken_off():
    """Each number of mean 0, and in all as long as before, on the root mean square."""
    backbones = {"text": tower()}
    model, points = network(backbones), np.random.default_rng(0).normal(3.0, [[0.1] * 32 + [0.2] * 32], (500, 64))
    fit_centering(model, backbones, frozen(backbones), lambda most: ({"text": points.astype(np.float32)[:most]}, {}))
    found = model.get_layer("centre")(points.astype(np.float32)).numpy()
    rest = points - points.mean(0)
    scale = np.sqrt((points**2).sum(1).mean() / (rest**2).sum(1).mean())
    np.testing.assert_allclose(found, rest * scale, atol=1e-3)
    assert (found**2).sum(1).mean() == pytest.approx((points**2).sum(1).mean(), rel=1e-4)


def test_a_mean_of_little_weight_stays():
    """It is no more than what samples differ by."""
    backbones = {"text": tower()}
    model, points = network(backbones), np.random.default_rng(0).normal(0.9, 1, (500, 64)).astype(np.float32)
    fit_centering(model, backbones, frozen(backbones), lambda most: ({"text": points}, {}))
    np.testing.assert_allclose(model.get_layer("centre")(points), points, rtol=1e-5)


def test_what_is_measured_stays():
    """A later phase, or a bundle that a run starts from, has its statistics already."""
    backbones = {"text": tower()}
    model = network(backbones)
    first, second = np.random.default_rng(0).normal(3, 1, (2, 50, 64)).astype(np.float32)
    for points in (first, second):
        fit_centering(model, backbones, frozen(backbones), lambda most, points=points: ({"text": points}, {}))
    np.testing.assert_allclose(model.get_layer("centre").moving_mean, first.mean(0), rtol=1e-4, atol=1e-6)


def test_a_tower_that_is_trained_is_measured_through_its_layers():
    """What lies above the cut gives the numbers, not what the trunk gives."""
    backbones = {"text": tower()}
    model, tokens = network(backbones), batch(backbones["text"], 40)
    given = keras.Model(backbones["text"].inputs, backbones["text"].features.pooled)(tokens).numpy()
    fit_centering(model, backbones, {}, lambda most: ({"text": tokens}, {}))
    np.testing.assert_allclose(model.get_layer("centre").moving_mean, given.mean(0), rtol=1e-5)


def test_samples_that_lack_a_text_do_not_count():
    """They are fed zeros."""
    backbones = {name: add_prefix(tower(), name) for name in ("one", "other")}
    model = network(backbones)
    points = np.random.default_rng(0).normal(4, 1, (20, 64)).astype(np.float32)
    there = np.ones((20, 2), np.float32)
    there[10:, 1] = 0
    fed = {"one": points, "other": points * there[:, 1:], MODALITY_MASK: there}
    fit_centering(model, backbones, frozen(backbones), lambda most: (fed, {}))
    np.testing.assert_allclose(model.get_layer("one_centre").moving_mean, points.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.get_layer("other_centre").moving_mean, points[:10].mean(0), rtol=1e-5)


@pytest.mark.parametrize("there", [[1, 1], [1, 0]], ids=["all the same", "in no sample"])
def test_what_tells_nothing_changes_nothing(there):
    """A variance of 0 would make infinite numbers."""
    backbones = {name: add_prefix(tower(), name) for name in ("one", "other")}
    model = network(backbones)
    points = np.random.default_rng(0).normal(3, 1, (9, 64))
    fed = {"one": points, "other": np.full((9, 64), 2.0), MODALITY_MASK: np.tile(there, (9, 1))}
    fit_centering(model, backbones, frozen(backbones), lambda most: (fed, {}))
    assert (model.get_layer("other_centre").moving_mean.numpy() == 0).all()
    assert (model.get_layer("one_centre").moving_mean.numpy() != 0).all()


def test_towers_that_go_on_as_they_are():
    """Pictures, sounds and what begins at random."""
    towers = {"photo": BACKBONES["convnet"](size=32), "random": tower(origin="")}
    assert list_centering_layers(towers) == {}
    assert list_centering_layers({"a": tower()} | towers) == {"a": "a_centre"}
