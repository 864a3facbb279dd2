"""What every augment of one sample promises, whatever it changes; being registered is enough to be tested.

What those promise that take whole batches, or several samples, is in test_mixing.py and test_scene_augments.py.
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
# Grey has no colours to lose, and Chinese no capitals.
NOTHING_TO_CHANGE = {("gray", 1), ("casing", 1)}

PICTURES = [name for name in AUGMENTS if AUGMENTS.get_modality(name) == "image"]
MIXES = [name for name in PICTURES if isinstance(AUGMENTS.build(Spec(name)), BatchAugment)]
PARTNERS = [name for name in PICTURES if isinstance(AUGMENTS.build(Spec(name)), MultiSampleAugment)]
SINGLE = sorted({*PICTURES} - {*MIXES, *PARTNERS})
OF_ONE = sorted({*AUGMENTS} - {*MIXES, *PARTNERS})
RECORDINGS = [name for name in OF_ONE if AUGMENTS.get_modality(name) == "audio"]
SOMETIMES = [name for name in OF_ONE if "probability" in AUGMENTS.get_signature(name).parameters]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """An augment by its name; `background` has recordings to take."""
    street = str(sounds(tmp_path_factory.mktemp("sounds"), street=2))
    return lambda name, **options: AUGMENTS.build(Spec(name, (street,) if name == "background" else (), options))


def seeded(seed):
    return tf.stack([tf.cast(seed, tf.int64), tf.constant(7, tf.int64)])


@pytest.mark.parametrize(
    ("name", "which"), [(name, at) for name in OF_ONE for at in range(len(CONTENT[AUGMENTS.get_modality(name)]))]
)
def test_one_seed_gives_one_result(name, which, build):
    """Eagerly and in tf.data; seeds differ; the type of what is changed stays, and all other columns do."""
    column = AUGMENTS.get_modality(name)
    content = tf.constant(CONTENT[column][which])
    augment = build(name, **({"probability": 0.5} if column == "text" else {}))
    results = []
    for seed in range(6):
        sample, again = (augment({column: content, "label": tf.constant("x")}, seeded(seed)) for _ in range(2))
        found = sample[column]
        assert (found.dtype, found.shape.rank, found.shape[2:]) == (
            content.dtype,
            content.shape.rank,
            content.shape[2:],
        )
        assert sample["label"] == b"x"
        assert np.array_equal(found, again[column])
        results.append(found.numpy())
    assert (name, which) in NOTHING_TO_CHANGE or any(not np.array_equal(result, results[0]) for result in results)
    piped = tf.data.Dataset.range(6).map(lambda seed: augment({column: content}, seeded(seed))[column])
    for eager, other in zip(results, piped.as_numpy_iterator(), strict=True):
        if column == "text":
            assert eager == other != b""
        else:
            # Compiled floating-point arithmetic may round the other way.
            assert eager.shape == other.shape
            assert np.abs(eager.astype(float) - other).max() <= (1 if column == "image" else 1e-4)


@pytest.mark.parametrize("name", SOMETIMES)
def test_a_probability_of_nothing_changes_nothing(name, build):
    """Whatever the seed."""
    column = AUGMENTS.get_modality(name)
    for content in CONTENT[column]:
        found = build(name, probability=0)({column: tf.constant(content)}, seeded(3))[column]
        assert np.array_equal(found, tf.constant(content))


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("length", [1, 2, 4_000])
def test_silence_stays_silence(name, length, build):
    """A missing recording is silent, and may be of any length."""
    for seed in range(4):
        changed = build(name)({"audio": tf.zeros(length)}, seeded(seed))["audio"].numpy()
        assert np.abs(changed).max(initial=0) <= 1e-6


@pytest.mark.parametrize("name", [name for name in OF_ONE if AUGMENTS.get_modality(name) == "text"])
def test_no_text_stays_none(name, build):
    """As a missing one is."""
    assert build(name)({"text": tf.constant("")}, seeded(3))["text"] == b""
