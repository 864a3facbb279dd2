"""What every fusion promises; being registered is enough to be tested."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.towers import batch
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.models.backbones.graph import add_prefix
from tfx_finetune.models.build import build_model
from tfx_finetune.models.split import split_model
from tfx_finetune.ops import litert
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import BACKBONES, FUSIONS, MODALITY_MASK, TASKS
from tfx_finetune.types.task import ClassLabels

TOWERS = "image=convnet(size=16, channels=3, widths=(4, 8)), text=bag_of_embeddings(size=12, dim=8, buckets=64)"
COUNT = 6


@pytest.fixture(scope="module", params=list(FUSIONS))
def network(request, tmp_path_factory):
    """A picture and a text, fused; the head begins at random, so that everything shows in its logits."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    run = Run(data=str(tmp_path_factory.mktemp("data")), backbone=TOWERS, fusion=f"{request.param}()")
    plan = check(run)
    towers = {name: add_prefix(BACKBONES.build(spec), name) for name, spec in plan.towers.items()}
    task = TASKS.build(parse_spec("classify(init='glorot', dropout=0.0)"), ClassLabels(("a", "b", "c"), (1, 1, 1), 3))
    made = build_model(plan.architecture, towers, {"label": task})
    rng = np.random.default_rng(0)
    for layer in made.model.layers:
        # Some begin at nothing, so that one tower alone counts.
        if layer.name in ("gate", "scale", "shift"):
            layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return made


@pytest.fixture(scope="module")
def inputs(network):
    """Samples that have both."""
    found = {tower: batch(backbone, COUNT) for tower, backbone in network.backbones.items()}
    found["image"] = found["image"].astype(np.float32)
    return found | {MODALITY_MASK: np.ones((COUNT, 2), np.float32)}


def logits(network, inputs):
    return network.model(inputs, training=False)["label/logits"].numpy()


def test_what_is_absent_makes_no_difference(network, inputs):
    """Whatever stands in its place, for every subset; and what is there does make one."""
    for there in ((1, 0), (0, 1)):
        shown = inputs | {MODALITY_MASK: np.array([there] * COUNT, np.float32)}
        before = logits(network, shown)
        assert np.isfinite(before).all()
        for tower, present in zip(network.backbones, there, strict=True):
            other = shown | {tower: shown[tower][::-1]}
            changed = np.abs(logits(network, other) - before).max()
            # A share of e^-12 is left to what is absent, of features that are zero.
            assert changed > 1e-4 if present else changed < 1e-4 * max(np.abs(before).max(), 1), (there, tower)


def test_shares_are_of_those_that_are_there(network, inputs):
    """They sum to 1, and what is absent has none."""
    if network.shares is None:
        pytest.skip("this fusion does not tell")
    for there in ((1, 1), (1, 0), (0, 1)):
        shares = network.shares(inputs | {MODALITY_MASK: np.array([there] * COUNT, np.float32)}, training=False).numpy()
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
        assert (shares[:, np.array(there) == 0] < 1e-3).all()


def test_the_parts_are_the_whole(network, inputs):
    """top(trunks) is the model, wherever pretrained towers would be cut."""
    whole = logits(network, inputs)
    trunks, top = split_model(network, "0")
    assert trunks == {}  # these towers begin at random, so that all of them is trained
    np.testing.assert_allclose(top(inputs, training=False)["label/logits"], whole, atol=1e-6)


def test_tflite_gives_the_same_for_every_subset(network, inputs):
    """With builtin operators alone, an input a tower and the presence."""
    specs = [tf.TensorSpec([1, *inputs[name].shape[1:]], inputs[name].dtype, name=name) for name in inputs]
    frozen = litert.freeze(
        lambda *fed: [network.model(dict(zip(inputs, fed, strict=True)), training=False)["label/logits"]], specs
    )
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    runner = litert.open_interpreter(content, 1)
    places = {detail["name"].split(":")[0]: detail["index"] for detail in runner.get_input_details()}
    for there in itertools.product((0, 1), repeat=2):
        if not any(there):
            continue
        shown = inputs | {MODALITY_MASK: np.array([there] * COUNT, np.float32)}
        for name, values in shown.items():
            runner.set_tensor(places[name], values[:1])
        runner.invoke()
        found = runner.get_tensor(runner.get_output_details()[0]["index"])
        np.testing.assert_allclose(found, logits(network, shown)[:1], atol=1e-3)
