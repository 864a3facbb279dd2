"""Kept outputs of frozen trunks: found again, never half-written, evicted by age; and training on them is training."""

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
    """A pretrained tower of 64 pixels, two heads that begin at random, and 24 drawn shapes."""
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


def collected(prepared, folder, split="train", views=2, unfreeze="2", precision="float32"):
    plan, data, network = prepared
    trunks, _ = split_model(network, unfreeze)
    key = fingerprint(plan, data, trunks["image"], precision)
    return feature_cache.get_or_compute(
        data, split, views, {"image": make_inference_fn(trunks["image"], 1, precision)}, key, folder
    )


def fingerprint(plan, data, trunk, precision="float32"):
    return {
        "image": feature_cache.fingerprint(
            data, "image", trunk, feature_cache.feature_cache_key(plan, "image") | {"precision": precision}
        )
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_training_on_kept_outputs_is_training_the_whole_model(prepared, tmp_path):
    """Two epochs of the top on the trunk's outputs, and of the whole model on the same views: the same weights."""
    plan, data, network = prepared
    phase = dataclasses.replace(plan.run.finetune, epochs=2, learning_rate=1e-3)
    store = collected(prepared, tmp_path)
    pixels = feature_cache.get_or_compute(data, "train", 2, {}, {"image": "pixels"}, tmp_path)
    _, top = split_model(network, "2")
    start = network.model.get_weights()
    steps = -(-len(store) // data.batch_size)
    found = []
    for model, batches in ((top, store), (network.model, pixels)):
        network.model.set_weights(start)
        compile_for_phase(model, network, phase, steps)
        ds = batches.training_batches(0, 2, data.batch_size, data.sampler).map(
            lambda x, y, w: (x, *({f"{head}/logits": value for head, value in values.items()} for values in (y, w)))
        )
        model.fit(ds, epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0)
        found.append(network.model.get_weights())
    network.model.set_weights(start)
    moved = [np.abs(a - b).max() for a, b in zip(found[0], start, strict=True)]
    assert sum(change > 1e-4 for change in moved) >= 8
    # Adam divides by the size of small gradients, which lets rounding grow.
    assert max(np.abs(a - b).max() for a, b in zip(*found, strict=True)) < 2e-4


def test_views_differ_and_epochs_take_turns(prepared, tmp_path):
    """Epoch e sees view e modulo the number of views, each sample once."""
    store = collected(prepared, tmp_path)
    assert len(store.inputs) == 2
    assert np.abs(store.inputs[0]["image"] - store.inputs[1]["image"]).max() > 0.1
    for epoch in range(3):
        batches = store.training_batches(epoch, epoch + 1, 4, prepared[1].sampler).as_numpy_iterator()
        seen = np.concatenate([x["image"] for x, *_ in batches])
        view = store.inputs[epoch % 2]["image"]
        assert len(seen) == len(view)
        for row in view:
            assert (np.abs(seen - row).max(axis=(1, 2, 3)) == 0).sum() == 1


def test_found_again_by_what_determines_them(prepared, tmp_path):
    """The same key computes nothing anew; another cut, precision, spec or weight has a key of its own."""
    plan, data, network = prepared
    first = collected(prepared, tmp_path)
    count = len(names(tmp_path))

    def never(pixels):
        raise AssertionError("computed again")

    trunk = split_model(network, "2")[0]["image"]
    key = fingerprint(plan, data, trunk)
    again = feature_cache.get_or_compute(data, "train", 2, {"image": never}, key, tmp_path)
    assert np.array_equal(first.inputs[1]["image"], again.inputs[1]["image"])
    collected(prepared, tmp_path, unfreeze="3")
    collected(prepared, tmp_path, precision="float16")
    assert len(names(tmp_path)) == 3 * count
    # The same graph may be fed otherwise, as e5_small(prefix='passage: ') is.
    other = dataclasses.replace(plan, towers={"image": parse_spec("efficientnet_lite0(size=64, weights='package')")})
    assert fingerprint(other, data, trunk) != key
    layer = next(layer for layer in trunk.layers if layer.weights)
    kept = layer.get_weights()
    layer.set_weights([value + 1e-3 for value in kept])
    assert fingerprint(plan, data, trunk) != key
    layer.set_weights(kept)


def test_all_phases_are_fed_in_one_pass(prepared, tmp_path, monkeypatch):
    """What each phase then looks for is there, and is what it would have computed itself."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path / "ahead")
    precompute_features(network, data, training_context(plan))
    kept = names(tmp_path / "ahead")
    for name, phase in plan.phases.items():
        fed = prepare_phase_data(split_model(network, phase.unfreeze)[0], phase, data, training_context(plan))
        assert len(fed.train.inputs) == phase.augmented_views == 2
        own = collected(prepared, tmp_path / name, unfreeze=phase.unfreeze)
        for ours, theirs in zip(fed.train.inputs, own.inputs, strict=True):
            assert np.abs(ours["image"] - theirs["image"]).max() <= 1e-5 * np.abs(theirs["image"]).max()
        for head in data.tasks:
            assert np.array_equal(fed.train.targets[head], own.targets[head])
            assert np.array_equal(fed.train.weights[head], own.weights[head])
    assert names(tmp_path / "ahead") == kept


def test_what_an_earlier_phase_changes_is_not_fed_ahead(prepared, tmp_path, monkeypatch):
    """Of phases that unfreeze four groups, then two, the second one's trunk is not what it will be."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path)
    tune = plan.phases["finetune"]
    phases = {name: dataclasses.replace(tune, unfreeze=unfreeze) for name, unfreeze in (("a", "4"), ("b", "2"))}
    precompute_features(network, data, training_context(dataclasses.replace(plan, phases=phases)))
    key = fingerprint(plan, data, split_model(network, "4")[0]["image"])
    count = len(names(tmp_path))
    feature_cache.get_or_compute(
        data, "train", 2, {"image": lambda pixels: pytest.fail("computed again")}, key, tmp_path
    )
    assert len(names(tmp_path)) == count == 2 + bool(data.table.size("val"))


def test_what_a_finished_phase_saw_is_not_computed_again(prepared, tmp_path, monkeypatch):
    """A finished run that is started again, its features gone, writes its bundle without them."""
    plan, data, network = prepared
    monkeypatch.setattr(type(plan), "features_folder", tmp_path / "features")
    plan = dataclasses.replace(plan, workdir=tmp_path)
    for name in ("frozen", "finetune"):
        Checkpoint.for_phase(tmp_path, name).finish(History(name), [np.zeros(1)])
    precompute_features(network, data, training_context(plan))
    assert not (tmp_path / "features").exists()


def test_half_precision_is_the_same_number_rounded(prepared, tmp_path):
    """Half the size, 11 bits of each value."""
    whole, half = (collected(prepared, tmp_path, precision=p).inputs[0]["image"] for p in ("float32", "float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, np.asarray(whole).astype(np.float16))


def test_what_breaks_off_is_not_taken_for_whole(prepared, tmp_path):
    """A trunk that fails in its second batch leaves nothing, and the next run computes everything."""
    _, data, network = prepared
    trunks, _ = split_model(network, "2")
    apply, calls = make_inference_fn(trunks["image"], 1), []

    def breaking(pixels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise OSError("the plug was pulled")
        return apply(pixels)

    with pytest.raises(OSError, match="plug"):
        feature_cache.get_or_compute(data, "train", 1, {"image": breaking}, {"image": "key"}, tmp_path)
    assert names(tmp_path) == []
    found = feature_cache.get_or_compute(data, "train", 1, {"image": apply}, {"image": "key"}, tmp_path)
    assert len(found) == data.table.size("train")


def test_longest_unused_stores_are_removed(tmp_path):
    """Until the rest fits; those of this run stay, and what another run is writing stays."""
    for position, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "input.npy").write_bytes(bytes(100))
        os.utime(tmp_path / name, (position, position))
    (tmp_path / ".e.xyz.part").mkdir()
    feature_cache.evict(tmp_path, 0, used_since=0)
    feature_cache.evict(tmp_path, 400, used_since=9)
    assert names(tmp_path) == [".e.xyz.part", "a", "b", "c", "d"]
    feature_cache.evict(tmp_path, 250, used_since=9)
    assert names(tmp_path) == [".e.xyz.part", "c", "d"]
    feature_cache.evict(tmp_path, 50, used_since=3)
    assert names(tmp_path) == [".e.xyz.part", "d"]
    os.utime(tmp_path / ".e.xyz.part", (0, 0))
    feature_cache.evict(tmp_path, 250, used_since=3)
    assert names(tmp_path) == ["d"]
