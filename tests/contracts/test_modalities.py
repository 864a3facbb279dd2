"""Contract of every registered modality."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_finetune.core.spec import parse_specs
from tfx_finetune.ops import audio
from tfx_finetune.types.components import AUGMENTS, MODALITIES, PretrainedCfg

RNG = np.random.default_rng(0)


def encode_png():
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


# Input size and format of a backbone, and the content of a file.
EXAMPLES = {
    "image": lambda: (PretrainedCfg(size=32), encode_png()),
    "audio": lambda: (
        PretrainedCfg(size=4_000, sample_rate=8_000),
        audio.encode_wav(RNG.normal(0, 0.1, 6_000).astype(np.float32), 8_000),
    ),
    "text": lambda: (PretrainedCfg(size=12), "Ein Fuchs, 狐".encode()),
}


@pytest.fixture(scope="module", params=MODALITIES)
def case(request):
    cfg, raw = EXAMPLES[request.param]()
    return request.param, MODALITIES[request.param](cfg), raw


def prepare(modality, raw):
    return modality.prepare(modality.decode(raw))


def test_content_becomes_model_input(case):
    """Content and the empty value get the stated shape and type, eagerly and in tf.data."""
    name, modality, raw = case
    assert modality.column == name
    value = prepare(modality, tf.constant(raw))
    (piped,) = tf.data.Dataset.from_tensors(raw).map(lambda content: prepare(modality, content)).as_numpy_iterator()
    assert np.array_equal(value, piped)
    for result in (value, modality.prepare(modality.empty_value())):
        assert (tuple(result.shape), result.dtype.name) == (modality.shape, modality.dtype)
    assert modality.input_dtype in ("float32", modality.dtype)


def test_a_portable_modality_calls_no_python(case):
    """A SavedModel contains TensorFlow operations only."""
    _, modality, raw = case
    function = tf.function(lambda content: prepare(modality, content)).get_concrete_function(tf.constant(raw))
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert modality.portable != any("PyFunc" in node.op for node in nodes)


def test_a_decoding_error_has_a_short_reason(case):
    """The reason is one line of up to 200 characters."""
    _, modality, _ = case
    with pytest.raises(Exception) as error:
        modality.decode(tf.constant(b"\xff"))
    message = modality.error_message(error.value)
    assert 0 < len(message) <= 200
    assert "\n" not in message


def test_a_sample_has_a_preview(case):
    """A modality has a preview, no warning for good content, and a unit in plural."""
    _, modality, raw = case
    assert any(modality.preview(raw, prepare(modality, tf.constant(raw)).numpy()))
    assert modality.warning(raw) == ""
    assert modality.unit.endswith("s")


def test_default_augments_are_of_the_modality(case):
    """The augments of a run without `--augment` change the modality's own column."""
    name, modality, _ = case
    assert all(AUGMENTS.get_modality(spec.name) == name for spec in parse_specs(modality.default_augments))
