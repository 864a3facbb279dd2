"""Augments that put other training samples into one: where they can stand, and which samples they take."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.assets import asset
from tests.helpers.commands import command, within
from tests.test_finding import FLAGS
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

SEEDS = st.integers(0, 10**6)
TOLD = {
    "things": tf.constant([False, True, True, True, True] + [False] * 251),
    # Boxes of tests.test_geometry are of class 4, and its masks have 1 there.
    "values": tf.constant([-1, 2, 3, -1, 1]),
}


@pytest.mark.parametrize(
    ("heads", "augment", "said"),
    [
        ("classify()", "mosaic()", r"labels of whole pictures cannot be joined so; received: mosaic\(\) beside label"),
        ("a=detect(), b=tag()", "flip(), mixup_scenes()", "labels of whole pictures cannot be joined so"),
        ("detect()", "copy_paste()", "masks alone say which pixels are to be pasted"),
        ("detect()", "mosaic(), mixup()", "what is found in pictures cannot be mixed"),
    ],
)
def test_heads_that_they_would_make_wrong_are_refused(tmp_path, heads, augment, said):
    """Before any data is read."""
    with pytest.raises(UserError, match=said):
        check(Run(data=str(tmp_path), heads=heads, augment=augment))


def test_rows_are_read_at_any_place():
    """Parts follow one another as in `marked`, in a graph or alone."""
    parts = {"train": ["a", "b"], "test": ["c"]}
    rows = InMemorySource("x", (), (), {part: {"file": names, "text": names} for part, names in parts.items()})
    inside = tf.data.Dataset.range(3).map(lambda place: rows.__getitem__(place)["text"])
    assert list(inside.as_numpy_iterator()) == [b"a", b"b", b"c"]
    assert rows.__getitem__(tf.constant(2))["file"] == b"c"


COLOURS = {"train": (255, 0, 0), "val": (0, 255, 0), "test": (0, 0, 255)}
ALL = "mosaic(probability=1), mixup_scenes(probability=1), copy_paste(probability=1, scale=(1, 1))"
TWO = "mosaic(probability=1), copy_paste(probability=1)"
LABELS = ClassLabels(("background", "thing"), (6, 6), 6)


def scenes(folder):
    """Pictures whose colour says their split and which of them they are, with a square thing in each."""
    kept = {}
    for part, colour in COLOURS.items():
        names = [f"{part}{number}" for number in range(6)]
        for number, name in enumerate(names):
            pixels = np.zeros((32, 32, 3), np.uint8) + (np.array(colour) * (10 - number) // 10).astype(np.uint8)
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 8:24] = 1
            Image.fromarray(pixels).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
        kept[part] = {
            "image": [str(folder / f"{name}.png") for name in names],
            "mask": [str(folder / f"{name}_mask.png") for name in names],
            "objects": [format_objects([Object("thing", 0.25, 0.25, 0.75, 0.75, False)])] * 6,
            "file": names,
        }
    return InMemorySource("scenes", LABELS.names, ("image", "mask"), kept)


def data(folder, augments, seed=0, source=None):
    """What the pipeline makes of these pictures, for both heads."""
    source, modalities = source or scenes(folder), {"image": MODALITIES.build(Spec("image"), PretrainedCfg(size=32))}
    tasks = {
        "objects": TASKS.build(Spec("detect"), ClassLabels(("thing",), (6,), 6)),
        "mask": TASKS.build(Spec("segment"), LABELS),
    }
    located = {task.column: task.places for task in tasks.values()}
    table = survey(source, modalities, {"image": "image"}, tuple(located), located)
    built = tuple(("image", AUGMENTS.build(spec)) for spec in parse_specs(augments))
    return Data(source, table, modalities, {"image": "image"}, tasks, built, 4, EpochSampler(seed))


def values(batches):
    """All samples of some batches, their pictures and targets."""
    found = [(inputs["image"], *targets.values()) for inputs, targets, _ in batches.as_numpy_iterator()]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def two_sources(folder):
    """The pictures twice, in two sources as one."""
    for name in "ab":
        (folder / name).mkdir()
    columns = dict.fromkeys(("image", "mask", "objects", "file"), False)
    return RandomAccessMixture({name: scenes(folder / name) for name in "ab"}, columns)


@pytest.mark.slow
def test_partners_are_training_samples_alone(tmp_path):
    """Of two sources as one: nothing green or blue comes into a training picture, and other reds do; what is held out
    stays as it is.
    """
    made = data(tmp_path, ALL, source=two_sources(tmp_path))
    pictures = np.concatenate([values(made.make_batches("train", view))[0] for view in (1, 2)])
    assert pictures[..., 0].min() > 0
    assert pictures[..., 1:].max() == 0
    assert len(np.unique(pictures[..., 0])) > 6
    for split, channel in (("val", 1), ("test", 2)):
        held = values(made.make_batches(split))[0]
        shades = [[255 * (10 - n) // 10] for n in range(6) for _ in "ab"]
        assert [np.unique(one[..., channel]).tolist() for one in held] == shades


@pytest.mark.slow
def test_views_are_the_same_alone_and_together(tmp_path):
    """As the cache of a frozen trunk needs it; another view, another seed: other partners."""
    made = data(tmp_path, TWO)
    together = [[], []]
    for batch in made.make_view_batches("train", [1, 3], ["image"]).as_numpy_iterator():
        for view, (inputs, targets, _) in zip(together, batch, strict=True):
            view.append((inputs["image"], *targets.values()))
    for view, found in zip((1, 3), together, strict=True):
        alone = values(made.make_batches("train", view))
        for one, other in zip(alone, zip(*found, strict=True), strict=True):
            np.testing.assert_array_equal(one, np.concatenate(other))
    first, third = (values(made.make_batches("train", view))[0] for view in (1, 3))
    assert not np.array_equal(first, third)
    assert not np.array_equal(first, values(data(tmp_path, TWO, seed=1).make_batches("train", 1))[0])


@pytest.mark.slow
def test_epochs_are_the_same_again_wherever_they_begin(tmp_path):
    """So that a killed run goes on to the same result."""
    made = data(tmp_path, f"flip(), {ALL}")
    both = values(made.make_epoch_batches("train", 0, 2))
    second = values(made.make_epoch_batches("train", 1, 2))
    for one, other in zip(both, second, strict=True):
        np.testing.assert_array_equal(one[6:], other)
    assert not np.array_equal(np.sort(both[0][:6].ravel()), np.sort(both[0][6:].ravel()))


def test_single_augments_draw_as_they_did(tmp_path):
    """What stands behind a change that never happens changes what it did in the same place before."""
    plain, beside = (
        values(data(tmp_path, f"{first}, random_resized_crop(), flip()").make_batches("train", 2))
        for first in ("flip(probability=0)", "mosaic(probability=0)")
    )
    for one, other in zip(plain, beside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_source_that_is_read_in_order_alone_is_refused(tmp_path):
    """In one line, before its samples are looked at."""
    source = MixtureSource({"a": scenes(tmp_path)}, {})  # as with a source of TFDS among them
    found = {"flip()": ("image", AUGMENTS.build(Spec("flip"))), "mosaic()": ("image", AUGMENTS.build(Spec("mosaic")))}
    with pytest.raises(UserError, match=r"other samples cannot be had beside one; received: mosaic\(\) beside a"):
        check_source(source, found)
    check_source(source, {"flip()": found["flip()"]})


@pytest.mark.slow
def test_a_run_with_all_of_them(tmp_path):
    """On a frozen trunk and without one, and `inspect` says so."""
    asset("tux-stamps")
    asset("opencv-photographs")
    flags = [
        *FLAGS,
        "--augment=flip(), mosaic(), mixup_scenes(), copy_paste(), color_jitter()",
        "--frozen.epochs=2",
        "--frozen.augmented_views=3",
        "--exports=keras_file()",
        f"--workdir={tmp_path}",
    ]
    done = command("train", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((tmp_path / "bundle" / "scores.json").read_text())
    assert {"objects/map", "mask/miou"} <= set(scores["test"])
    shown = within("inspect", *flags)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.count("puts other samples into this one") == 3
