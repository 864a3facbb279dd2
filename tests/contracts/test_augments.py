"""Contract of every registered augment of one sample.

The contracts of batch augments and multi-sample augments are in test_mixing.py and test_scene_augments.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.small_data import sounds
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import AUGMENTS, BatchAugment
from tfx_finetune.types.localization import MultiSampleAugment

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
WAVE = (0.2 * np.sin(np.arange(8_001) * 0.3) + 0.02 * RNG.normal(size=8_001)).astype(np.float32)
CONTENT = {
    "image": (PIXELS, PIXELS[..., :1]),
    "audio": (WAVE,),
    "text": ("Eins zwei DREI vier fünf sechs sieben acht neun zehn", "这本书非常好我很喜欢"),
}
# A grayscale image has no colors, and Chinese text has no case.
UNCHANGED = {("random_grayscale", 1), ("random_case", 1)}

IMAGE = [name for name in AUGMENTS if AUGMENTS.get_modality(name) == "image"]
BATCH = [name for name in IMAGE if isinstance(AUGMENTS.build(Spec(name)), BatchAugment)]
MULTI_SAMPLE = [name for name in IMAGE if isinstance(AUGMENTS.build(Spec(name)), MultiSampleAugment)]
SINGLE_IMAGE = sorted({*IMAGE} - {*BATCH, *MULTI_SAMPLE})
SINGLE = sorted({*AUGMENTS} - {*BATCH, *MULTI_SAMPLE})
AUDIO = [name for name in SINGLE if AUGMENTS.get_modality(name) == "audio"]
RANDOM = [name for name in SINGLE if "probability" in AUGMENTS.get_signature(name).parameters]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Build an augment by its name; `background_noise` gets a folder of recordings."""
    street = str(sounds(tmp_path_factory.mktemp("sounds"), street=2))
    return lambda name, **options: AUGMENTS.build(Spec(name, (street,) if name == "background_noise" else (), options))


def make_seed(seed):
    return tf.stack([tf.cast(seed, tf.int64), tf.constant(7, tf.int64)])


@pytest.mark.parametrize(
    ("name", "index"), [(name, index) for name in SINGLE for index in range(len(CONTENT[AUGMENTS.get_modality(name)]))]
)
def test_the_same_seed_gives_the_same_result(name, index, build):
    """Eagerly and in tf.data; seeds give different results; type and rank stay, and other columns do not change."""
    column = AUGMENTS.get_modality(name)
    content = tf.constant(CONTENT[column][index])
    augment = build(name, **({"probability": 0.5} if column == "text" else {}))
    results = []
    for seed in range(6):
        sample, again = (augment({column: content, "label": tf.constant("x")}, make_seed(seed)) for _ in range(2))
        value = sample[column]
        assert (value.dtype, value.shape.rank, value.shape[2:]) == (
            content.dtype,
            content.shape.rank,
            content.shape[2:],
        )
        assert sample["label"] == b"x"
        assert np.array_equal(value, again[column])
        results.append(value.numpy())
    assert (name, index) in UNCHANGED or any(not np.array_equal(result, results[0]) for result in results)
    piped = tf.data.Dataset.range(6).map(lambda seed: augment({column: content}, make_seed(seed))[column])
    for eager, other in zip(results, piped.as_numpy_iterator(), strict=True):
        if column == "text":
            assert eager == other != b""
        else:
            # Compiled floating-point arithmetic may round the other way.
            assert eager.shape == other.shape
            assert np.abs(eager.astype(float) - other).max() <= (1 if column == "image" else 1e-4)


@pytest.mark.parametrize("name", RANDOM)
def test_a_probability_of_zero_changes_nothing(name, build):
    """The content is returned as it is."""
    column = AUGMENTS.get_modality(name)
    for content in CONTENT[column]:
        value = build(name, probability=0)({column: tf.constant(content)}, make_seed(3))[column]
        assert np.array_equal(value, tf.constant(content))


@pytest.mark.parametrize("name", AUDIO)
@pytest.mark.parametrize("length", [1, 2, 4_000])
def test_silence_stays_silence(name, length, build):
    """A missing recording is silence of any length."""
    for seed in range(4):
        changed = build(name)({"audio": tf.zeros(length)}, make_seed(seed))["audio"].numpy()
        assert np.abs(changed).max(initial=0) <= 1e-6


@pytest.mark.parametrize("name", [name for name in SINGLE if AUGMENTS.get_modality(name) == "text"])
def test_an_empty_text_stays_empty(name, build):
    """A missing text is an empty string."""
    assert build(name)({"text": tf.constant("")}, make_seed(3))["text"] == b""
