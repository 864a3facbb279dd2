"""Tests of the feature cache: keys, interrupted writes, eviction, and training on cached features."""

import dataclasses
import os

import keras
import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import write_shapes
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.split import split_model
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training import feature_cache
from tfx_finetune.training.checkpoint import Checkpoint, History
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.training.phase_data import precompute_features, prepare_phase_data
from tfx_finetune.training.trainer import compile_for_phase


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Set up a pretrained tower of 64 pixels, two heads with random weights, and 24 images of shapes."""
    fetch_asset("efficientnet-lite0")
    root = tmp_path_factory.mktemp("features")
    run = Run(
        data=str(write_shapes(root / "shapes", images_per_class=8)),
        backbone="efficientnet_lite0(size=64)",
        heads="kind=classify(init='glorot', dropout=0.0), seen=tag(init='glorot', dropout=0.0)",
        augment="flip(), random_resized_crop()",
        workdir=str(root / "run"),
        batch_size=4,
    )
    plan = check(run)
    backbones = build_towers(plan.architecture)
    data = prepare_data(plan, {"image": backbones["image"].pretrained_cfg})
    keras.utils.set_random_seed(0)
    return plan, data, build_model(plan.architecture, backbones, data.tasks)


def get_features(prepared, folder, split="train", views=2, unfreeze="2", precision="float32"):
    plan, data, network = prepared
    trunks, _ = split_model(network, unfreeze)
    keys = make_keys(plan, data, trunks["image"], precision)
    return feature_cache.get_or_compute(
        data, split, views, {"image": make_inference_fn(trunks["image"], 1, precision)}, keys, folder
    )


def make_keys(plan, data, trunk, precision="float32"):
    return {
        "image": feature_cache.fingerprint(
            data, "image", trunk, feature_cache.feature_cache_key(plan, "image") | {"precision": precision}
        )
    }


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_stores_of_an_earlier_version_are_not_read(prepared, monkeypatch):
    """A store whose arrays have other names would end the run with a KeyError."""
    plan, data, _ = prepared
    key = make_keys(plan, data, None)
    monkeypatch.setattr(feature_cache, "_STORE_VERSION", 1)
    assert make_keys(plan, data, None) != key


def test_training_on_cached_features_equals_training_the_whole_model(prepared, tmp_path):
    """Two epochs of the trainable part and of the whole model on the same views give the same weights."""
    plan, data, network = prepared
    phase = dataclasses.replace(plan.run.finetune, epochs=2, learning_rate=1e-3)
    store = get_features(prepared, tmp_path)
    pixels = feature_cache.get_or_compute(data, "train", 2, {}, {"image": "pixels"}, tmp_path)
    _, trainable_part = split_model(network, "2")
    initial_weights = network.model.get_weights()
    steps = -(-len(store) // data.batch_size)
    trained_weights = []
    for model, batches in ((trainable_part, store), (network.model, pixels)):
        network.model.set_weights(initial_weights)
        compile_for_phase(model, network, phase, steps)
        ds = batches.training_batches(0, 2, data.batch_size, data.sampler).map(
            lambda x, y, w: (x, *({f"{head}/logits": value for head, value in values.items()} for values in (y, w)))
        )
        model.fit(ds, epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0)
        trained_weights.append(network.model.get_weights())
    network.model.set_weights(initial_weights)
    changes = [np.abs(a - b).max() for a, b in zip(trained_weights[0], initial_weights, strict=True)]
    assert sum(change > 1e-4 for change in changes) >= 8
    # Adam divides by the size of small gradients, which increases rounding errors.
    assert max(np.abs(a - b).max() for a, b in zip(*trained_weights, strict=True)) < 2e-4


def test_epochs_cycle_through_different_views(prepared, tmp_path):
    """Epoch e has view e modulo the number of views, each sample once."""
    store = get_features(prepared, tmp_path)
    assert len(store.inputs) == 2
    assert np.abs(store.inputs[0]["image"] - store.inputs[1]["image"]).max() > 0.1
    for epoch in range(3):
        batches = store.training_batches(epoch, epoch + 1, 4, prepared[1].sampler).as_numpy_iterator()
        rows = np.concatenate([x["image"] for x, *_ in batches])
        view = store.inputs[epoch % 2]["image"]
        assert len(rows) == len(view)
        for row in view:
            assert (np.abs(rows - row).max(axis=(1, 2, 3)) == 0).sum() == 1


def test_features_are_found_by_everything_that_determines_them(prepared, tmp_path):
    """The same key computes nothing again; another cut, precision, spec or weight has another key."""
    plan, data, network = prepared
    first = get_features(prepared, tmp_path)
    count = len(list_names(tmp_path))

    def fail(pixels):
        raise AssertionError("computed again")

    trunk = split_model(network, "2")[0]["image"]
    keys = make_keys(plan, data, trunk)
    cached = feature_cache.get_or_compute(data, "train", 2, {"image": fail}, keys, tmp_path)
    assert np.array_equal(first.inputs[1]["image"], cached.inputs[1]["image"])
    get_features(prepared, tmp_path, unfreeze="3")
    get_features(prepared, tmp_path, precision="float16")
    assert len(list_names(tmp_path)) == 3 * count
    # The same graph may get other inputs, such as those of e5_small(prefix='passage: ').
    other = dataclasses.replace(plan, towers={"image": parse_spec("efficientnet_lite0(size=64, weights='package')")})
    assert make_keys(other, data, trunk) != keys
    layer = next(layer for layer in trunk.layers if layer.weights)
    weights = layer.get_weights()
    layer.set_weights([value + 1e-3 for value in weights])
    assert make_keys(plan, data, trunk) != keys
    layer.set_weights(weights)


def test_features_of_all_phases_are_computed_in_one_pass(prepared, tmp_path, monkeypatch):
    """Each phase finds its features, which equal those that it would compute itself."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path / "ahead")
    precompute_features(network, data, training_context(plan))
    stored = list_names(tmp_path / "ahead")
    for name, phase in plan.phases.items():
        phase_data = prepare_phase_data(split_model(network, phase.unfreeze)[0], phase, data, training_context(plan))
        assert len(phase_data.train.inputs) == phase.augmented_views == 2
        expected = get_features(prepared, tmp_path / name, unfreeze=phase.unfreeze)
        for view, expected_view in zip(phase_data.train.inputs, expected.inputs, strict=True):
            difference = np.abs(view["image"] - expected_view["image"]).max()
            assert difference <= 1e-5 * np.abs(expected_view["image"]).max()
        for head in data.tasks:
            assert np.array_equal(phase_data.train.targets[head], expected.targets[head])
            assert np.array_equal(phase_data.train.weights[head], expected.weights[head])
    assert list_names(tmp_path / "ahead") == stored


def test_features_that_an_earlier_phase_changes_are_not_precomputed(prepared, tmp_path, monkeypatch):
    """If phases unfreeze four groups, then two, the first phase trains a part of the second phase's frozen part."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path)
    finetune = plan.phases["finetune"]
    phases = {name: dataclasses.replace(finetune, unfreeze=unfreeze) for name, unfreeze in (("a", "4"), ("b", "2"))}
    precompute_features(network, data, training_context(dataclasses.replace(plan, phases=phases)))
    keys = make_keys(plan, data, split_model(network, "4")[0]["image"])
    count = len(list_names(tmp_path))
    feature_cache.get_or_compute(
        data, "train", 2, {"image": lambda pixels: pytest.fail("computed again")}, keys, tmp_path
    )
    assert len(list_names(tmp_path)) == count == 2 + bool(data.table.size("val"))


def test_features_of_finished_phases_are_not_computed_again(prepared, tmp_path, monkeypatch):
    """A finished run that starts again without its features writes its bundle without computing them."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path / "features")
    plan = dataclasses.replace(plan, workdir=tmp_path)
    for name in ("frozen", "finetune"):
        Checkpoint.for_phase(tmp_path, name).finish(History(name), [np.zeros(1)])
    precompute_features(network, data, training_context(plan))
    assert not (tmp_path / "features").exists()


def test_float16_features_are_rounded_float32_features(prepared, tmp_path):
    """Values keep 11 significant bits."""
    full, half = (get_features(prepared, tmp_path, precision=p).inputs[0]["image"] for p in ("float32", "float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, np.asarray(full).astype(np.float16))


def test_an_interrupted_computation_leaves_no_store(prepared, tmp_path):
    """If the second batch fails, nothing is stored, and the next run computes everything."""
    _, data, network = prepared
    trunks, _ = split_model(network, "2")
    run, calls = make_inference_fn(trunks["image"], 1), []

    def fail_in_second_batch(pixels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise OSError("the plug was pulled")
        return run(pixels)

    with pytest.raises(OSError, match="plug"):
        feature_cache.get_or_compute(data, "train", 1, {"image": fail_in_second_batch}, {"image": "key"}, tmp_path)
    assert list_names(tmp_path) == []
    store = feature_cache.get_or_compute(data, "train", 1, {"image": run}, {"image": "key"}, tmp_path)
    assert len(store) == data.table.size("train")


def test_least_recently_used_stores_are_evicted(tmp_path):
    """Stores of this run stay, and so do stores that another run is writing."""
    for position, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "input.npy").write_bytes(bytes(100))
        os.utime(tmp_path / name, (position, position))
    (tmp_path / ".e.xyz.part").mkdir()
    feature_cache.evict(tmp_path, 0, used_since=0)
    feature_cache.evict(tmp_path, 400, used_since=9)
    assert list_names(tmp_path) == [".e.xyz.part", "a", "b", "c", "d"]
    feature_cache.evict(tmp_path, 250, used_since=9)
    assert list_names(tmp_path) == [".e.xyz.part", "c", "d"]
    feature_cache.evict(tmp_path, 50, used_since=3)
    assert list_names(tmp_path) == [".e.xyz.part", "d"]
    os.utime(tmp_path / ".e.xyz.part", (0, 0))
    feature_cache.evict(tmp_path, 250, used_since=3)
    assert list_names(tmp_path) == ["d"]
