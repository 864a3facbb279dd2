"""Augments of several samples: checks, and selection of the other samples."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import run_command, run_in_process
from tests.tasks.test_localization_commands import FLAGS
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_specs
from tfx_finetune.datasets.mixture import MixtureSource, RandomAccessMixture
from tfx_finetune.datasets.multi_sample import check_source
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.datasets.survey import survey
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import AUGMENTS, MODALITIES, TASKS, PretrainedCfg
from tfx_finetune.types.task import ClassLabels


@pytest.mark.parametrize(
    ("heads", "augment", "message"),
    [
        ("classify()", "mosaic()", r"cannot combine labels of whole images: mosaic\(\) with label\."),
        (
            "a=detect(), b=tag()",
            "flip(), mixup_scenes()",
            "Augments of several samples cannot combine labels of whole images: ",
        ),
        ("detect()", "copy_paste()", r"An augment needs masks: copy_paste\(\)\."),
        ("detect()", "mosaic(), mixup()", "Augments that mix images do not support detection and segmentation: "),
    ],
)
def test_incompatible_heads(tmp_path, heads, augment, message):
    """Augments that do not fit the heads are refused before the data is read."""
    with pytest.raises(UserError, match=message):
        check(Run(data=str(tmp_path), heads=heads, augment=augment))


def test_samples_are_read_by_index():
    """The index counts over all parts in order, inside a graph and outside."""
    parts = {"train": ["a", "b"], "test": ["c"]}
    source = InMemorySource("x", (), (), {part: {"file": names, "text": names} for part, names in parts.items()})
    texts = tf.data.Dataset.range(3).map(lambda index: source[index]["text"])
    assert len(source) == 3
    assert list(texts.as_numpy_iterator()) == [b"a", b"b", b"c"]
    assert source[tf.constant(2)]["file"] == b"c"


COLORS = {"train": (255, 0, 0), "val": (0, 255, 0), "test": (0, 0, 255)}
ALL = "mosaic(probability=1), mixup_scenes(probability=1), copy_paste(probability=1, scale=(1, 1))"
TWO = "mosaic(probability=1), copy_paste(probability=1)"
LABELS = ClassLabels(("background", "thing"), (6, 6), 6)


def scenes(folder):
    """Write images whose color identifies the split and the sample, each with a square object."""
    parts = {}
    for part, color in COLORS.items():
        names = [f"{part}{number}" for number in range(6)]
        for number, name in enumerate(names):
            pixels = np.zeros((32, 32, 3), np.uint8) + (np.array(color) * (10 - number) // 10).astype(np.uint8)
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 8:24] = 1
            Image.fromarray(pixels).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
        parts[part] = {
            "image": [str(folder / f"{name}.png") for name in names],
            "mask": [str(folder / f"{name}_mask.png") for name in names],
            "objects": [format_objects([Object("thing", 0.25, 0.25, 0.75, 0.75, False)])] * 6,
            "file": names,
        }
    return InMemorySource("scenes", LABELS.names, ("image", "mask"), parts)


def data(folder, augments, seed=0, source=None):
    """Return the data of these images for a detection head and a segmentation head."""
    source, modalities = source or scenes(folder), {"image": MODALITIES.build(Spec("image"), PretrainedCfg(size=32))}
    tasks = {
        "objects": TASKS.build(Spec("detect"), ClassLabels(("thing",), (6,), 6)),
        "mask": TASKS.build(Spec("segment"), LABELS),
    }
    localizations = {task.column: task.localization for task in tasks.values()}
    table = survey(source, modalities, {"image": "image"}, tuple(localizations), localizations)
    built = tuple(("image", AUGMENTS.build(spec)) for spec in parse_specs(augments))
    return Data(source, table, modalities, {"image": "image"}, tasks, built, 4, EpochSampler(seed))


def values(batches):
    """Return the images and targets of all samples of some batches."""
    samples = [(inputs["image"], *targets.values()) for inputs, targets, _ in batches.as_numpy_iterator()]
    return [np.concatenate(arrays) for arrays in zip(*samples, strict=True)]


def two_sources(folder):
    """Make a mixture of two sources with the same images."""
    for name in "ab":
        (folder / name).mkdir()
    columns = dict.fromkeys(("image", "mask", "objects", "file"), False)
    return RandomAccessMixture({name: scenes(folder / name) for name in "ab"}, columns)


@pytest.mark.slow
def test_other_samples_are_training_samples(tmp_path):
    """Training images of a mixture get other reds, no green or blue; held-out images stay unchanged."""
    mixture_data = data(tmp_path, ALL, source=two_sources(tmp_path))
    images = np.concatenate([values(mixture_data.make_batches("train", view))[0] for view in (1, 2)])
    assert images[..., 0].min() > 0
    assert images[..., 1:].max() == 0
    assert len(np.unique(images[..., 0])) > 6
    for split, channel in (("val", 1), ("test", 2)):
        held_out = values(mixture_data.make_batches(split))[0]
        shades = [[255 * (10 - n) // 10] for n in range(6) for _ in "ab"]
        assert [np.unique(image[..., channel]).tolist() for image in held_out] == shades


@pytest.mark.slow
def test_views_are_the_same_separately_and_together(tmp_path):
    """The feature cache needs equal views; another view or seed has other samples."""
    augmented = data(tmp_path, TWO)
    joint = [[], []]
    for batch in augmented.make_view_batches("train", [1, 3], ["image"]).as_numpy_iterator():
        for samples, (inputs, targets, _) in zip(joint, batch, strict=True):
            samples.append((inputs["image"], *targets.values()))
    for view, samples in zip((1, 3), joint, strict=True):
        separate = values(augmented.make_batches("train", view))
        for expected, arrays in zip(separate, zip(*samples, strict=True), strict=True):
            np.testing.assert_array_equal(expected, np.concatenate(arrays))
    first, third = (values(augmented.make_batches("train", view))[0] for view in (1, 3))
    assert not np.array_equal(first, third)
    assert not np.array_equal(first, values(data(tmp_path, TWO, seed=1).make_batches("train", 1))[0])


@pytest.mark.slow
def test_epochs_do_not_depend_on_the_first_epoch(tmp_path):
    """A resumed run sees the same samples as an uninterrupted one."""
    augmented = data(tmp_path, f"flip(), {ALL}")
    both = values(augmented.make_epoch_batches("train", 0, 2))
    second = values(augmented.make_epoch_batches("train", 1, 2))
    for all_epochs, last_epoch in zip(both, second, strict=True):
        np.testing.assert_array_equal(all_epochs[6:], last_epoch)
    assert not np.array_equal(np.sort(both[0][:6].ravel()), np.sort(both[0][6:].ravel()))


def test_seeds_of_augments_depend_on_their_position(tmp_path):
    """An augment that is never applied does not change the augments after it, whatever its kind."""
    after_single, after_multi = (
        values(data(tmp_path, f"{first}, random_resized_crop(), flip()").make_batches("train", 2))
        for first in ("flip(probability=0)", "mosaic(probability=0)")
    )
    for expected, actual in zip(after_single, after_multi, strict=True):
        np.testing.assert_array_equal(expected, actual)


def test_a_source_without_random_access_is_refused(tmp_path):
    """The check does not read samples."""
    source = MixtureSource({"a": scenes(tmp_path)}, {})  # as with a source of TFDS in the mixture
    augments = {
        "flip()": ("image", AUGMENTS.build(Spec("flip"))),
        "mosaic()": ("image", AUGMENTS.build(Spec("mosaic"))),
    }
    with pytest.raises(
        UserError, match=r"The data cannot be read by index, which an augment needs: mosaic\(\) with a\."
    ):
        check_source(source, augments)
    check_source(source, {"flip()": augments["flip()"]})


@pytest.mark.slow
def test_a_run_with_all_augments(tmp_path):
    """A run has the augments with and without a frozen trunk, and `inspect` shows them."""
    fetch_asset("tux-stamps")
    fetch_asset("opencv-photographs")
    flags = [
        *FLAGS,
        "--augment=flip(), mosaic(), mixup_scenes(), copy_paste(), color_jitter()",
        "--frozen.epochs=2",
        "--frozen.augmented_views=3",
        "--exports=keras_file()",
        f"--workdir={tmp_path}",
    ]
    result = run_command("train", *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    scores = json.loads((tmp_path / "bundle" / "scores.json").read_text())
    assert {"objects/map", "mask/miou"} <= set(scores["test"])
    result = run_in_process("inspect", *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("combines several samples; not shown") == 3
