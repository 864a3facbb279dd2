"""What every modality promises; being registered is enough to be tested."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_finetune.core.spec import parse_specs
from tfx_finetune.ops import audio
from tfx_finetune.types.components import AUGMENTS, MODALITIES, PretrainedCfg

RNG = np.random.default_rng(0)


def png():
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


# What a card says, and a file.
EXAMPLES = {
    "image": lambda: (PretrainedCfg(size=32), png()),
    "audio": lambda: (
        PretrainedCfg(size=4_000, sample_rate=8_000),
        audio.encode_wav(RNG.normal(0, 0.1, 6_000).astype(np.float32), 8_000),
    ),
    "text": lambda: (PretrainedCfg(size=12), "Ein Fuchs, 狐".encode()),
}


@pytest.fixture(scope="module", params=MODALITIES)
def case(request):
    card, raw = EXAMPLES[request.param]()
    return request.param, MODALITIES[request.param](card), raw


def ready(modality, raw):
    return modality.prepare(modality.decode(raw))


def test_content_becomes_what_the_model_takes(case):
    """Of the shape and type that it says, eagerly and in tf.data; what is missing as well."""
    name, modality, raw = case
    assert modality.column == name
    found = ready(modality, tf.constant(raw))
    (piped,) = tf.data.Dataset.from_tensors(raw).map(lambda each: ready(modality, each)).as_numpy_iterator()
    assert np.array_equal(found, piped)
    for value in (found, modality.prepare(modality.blank())):
        assert (tuple(value.shape), value.dtype.name) == (modality.shape, modality.dtype)
    assert modality.fed in ("float32", modality.dtype)


def test_what_is_portable_calls_no_python(case):
    """A SavedModel has TensorFlow's operations alone."""
    _, modality, raw = case
    graph = tf.function(lambda each: ready(modality, each)).get_concrete_function(tf.constant(raw)).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert modality.portable != any("PyFunc" in node.op for node in nodes)


def test_what_cannot_be_decoded_has_a_reason(case):
    """A few words on one line, for the report."""
    _, modality, _ = case
    with pytest.raises(Exception) as error:
        modality.decode(tf.constant(b"\xff"))
    reason = modality.reason(error.value)
    assert 0 < len(reason) <= 200
    assert "\n" not in reason


def test_people_see_a_sample(case):
    """A picture, a sound or a text of it, what there is to know of it, and what several of them are called."""
    _, modality, raw = case
    assert any(modality.show(raw, ready(modality, tf.constant(raw)).numpy()))
    assert modality.remark(raw) == ""
    assert modality.noun.endswith("s")


def test_usual_augments_are_of_this_modality(case):
    """They are what a run without `--augment` takes."""
    name, modality, _ = case
    assert all(AUGMENTS.get_modality(spec.name) == name for spec in parse_specs(modality.usual))
