"""Contract of fusions: every registered fusion is tested."""

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
    """Build a model of an image and a text tower with a random head, so that all differences show in the logits."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    run = Run(data=str(tmp_path_factory.mktemp("data")), backbone=TOWERS, fusion=f"{request.param}()")
    plan = check(run)
    towers = {name: add_prefix(BACKBONES.build(spec), name) for name, spec in plan.towers.items()}
    task = TASKS.build(parse_spec("classify(init='glorot', dropout=0.0)"), ClassLabels(("a", "b", "c"), (1, 1, 1), 3))
    network = build_model(plan.architecture, towers, {"label": task})
    rng = np.random.default_rng(0)
    for layer in network.model.layers:
        # These are initialized to zero, with which one tower has no effect.
        if layer.name in ("gate", "scale", "shift"):
            layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def inputs(network):
    """Return samples with image and text."""
    samples = {tower: batch(backbone, COUNT) for tower, backbone in network.backbones.items()}
    samples["image"] = samples["image"].astype(np.float32)
    return samples | {MODALITY_MASK: np.ones((COUNT, 2), np.float32)}


def logits(network, inputs):
    return network.model(inputs, training=False)["label/logits"].numpy()


def test_missing_modalities_have_no_effect(network, inputs):
    """The input of a missing modality does not change the logits, and that of a present one does."""
    for mask in ((1, 0), (0, 1)):
        masked = inputs | {MODALITY_MASK: np.array([mask] * COUNT, np.float32)}
        before = logits(network, masked)
        assert np.isfinite(before).all()
        for tower, is_present in zip(network.backbones, mask, strict=True):
            other = masked | {tower: masked[tower][::-1]}
            changed = np.abs(logits(network, other) - before).max()
            # A missing modality has a gate weight of e^-12, and features of zero.
            assert changed > 1e-4 if is_present else changed < 1e-4 * max(np.abs(before).max(), 1), (mask, tower)


def test_gate_weights_are_those_of_present_modalities(network, inputs):
    """They have sum 1, and that of a missing modality is 0."""
    if network.gate_weights is None:
        pytest.skip("this fusion has no gate weights")
    for mask in ((1, 1), (1, 0), (0, 1)):
        masked = inputs | {MODALITY_MASK: np.array([mask] * COUNT, np.float32)}
        gate_weights = network.gate_weights(masked, training=False).numpy()
        np.testing.assert_allclose(gate_weights.sum(1), 1, atol=1e-5)
        assert (gate_weights[:, np.array(mask) == 0] < 1e-3).all()


def test_split_preserves_outputs(network, inputs):
    """The trainable part equals the model."""
    expected = logits(network, inputs)
    trunks, trainable_part = split_model(network, "0")
    assert trunks == {}  # randomly initialized towers are trained as a whole
    np.testing.assert_allclose(trainable_part(inputs, training=False)["label/logits"], expected, atol=1e-6)


def test_tflite_computes_the_same_for_every_modality_mask(network, inputs):
    """TFLite needs builtin operators only, and has an input per tower and the modality mask."""
    specs = [tf.TensorSpec([1, *inputs[name].shape[1:]], inputs[name].dtype, name=name) for name in inputs]
    frozen = litert.freeze(
        lambda *values: [network.model(dict(zip(inputs, values, strict=True)), training=False)["label/logits"]], specs
    )
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    runner = litert.open_interpreter(content, 1)
    indexes = {detail["name"].split(":")[0]: detail["index"] for detail in runner.get_input_details()}
    for mask in itertools.product((0, 1), repeat=2):
        if not any(mask):
            continue
        masked = inputs | {MODALITY_MASK: np.array([mask] * COUNT, np.float32)}
        for name, values in masked.items():
            runner.set_tensor(indexes[name], values[:1])
        runner.invoke()
        output = runner.get_tensor(runner.get_output_details()[0]["index"])
        np.testing.assert_allclose(output, logits(network, masked)[:1], atol=1e-3)
