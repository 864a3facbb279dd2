"""How much of what is learned from comes from each source."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import SMALL, refused_before_writing
from tests.helpers.small_data import class_folder, complaint, picture
from tfx_finetune.core import config
from tfx_finetune.core.options import replace_options
from tfx_finetune.core.config import MixtureOptions, Run
from tfx_finetune.datasets.mixture_weights import compute_mixture_weights, parse_weights
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.types.components import PretrainedCfg

SIZES = {"a": 900, "b": 90, "c": 10}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (MixtureOptions(), [0.9, 0.09, 0.01]),
        (MixtureOptions(temperature=2.0), [30 / 42.649, 9.487 / 42.649, 3.162 / 42.649]),
        (MixtureOptions(temperature=1e9), [1 / 3] * 3),
        (MixtureOptions(uniform=True), [1 / 3] * 3),
        (MixtureOptions(weights="c=1, a=2.5,b=.5"), [0.625, 0.125, 0.25]),
    ],
)
def test_shares(mix, expected):
    """p ~ n^(1/T), by hand: the square roots of 900, 90 and 10 are 30, 9.487 and 3.162."""
    found = compute_mixture_weights(SIZES, mix)
    assert list(found) == list(SIZES)
    assert list(found.values()) == pytest.approx(expected, abs=1e-4)
    assert sum(found.values()) == pytest.approx(1)


def test_a_low_temperature_does_not_overflow():
    """The largest is all that is seen."""
    assert compute_mixture_weights({"a": 10**6, "b": 10}, MixtureOptions(temperature=0.01)) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("text", ["a", "a=", "a=-1", "a=0", "a=1, a=2", "=1", "a=1,", "a=1e3"])
def test_what_is_no_weight(text):
    """Each is refused with what was received."""
    assert complaint(parse_weights, text).startswith("--mixture.weights is not understood; received: ")


def test_weights_name_all_and_them_alone():
    """Otherwise a source would silently have none."""
    assert "leaves some without a weight; received: b, c" in complaint(
        compute_mixture_weights, SIZES, MixtureOptions(weights="a=1")
    )
    said = complaint(compute_mixture_weights, {"mnist": 1, "web": 2}, MixtureOptions(weights="mnit=1, web=2"))
    assert said.endswith(
        "--mixture.weights names what there is not; received: mnit; allowed: mnist, web; did you mean mnist?"
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A large and a small source, of two classes of which one is rare."""
    root = tmp_path_factory.mktemp("shares")
    class_folder(root / "a", cat=60, dog=20)
    for number, path in enumerate(sorted(class_folder(root / "b", cat=4, dog=6).rglob("*.png"))):
        picture(path, 9000 + number)  # none of them a copy
    return f"a=folder({str(root / 'a')!r}), b=folder({str(root / 'b')!r})"


def prepared(places, folder, **given):
    """The plan and the data of a run."""
    options = {name.replace("__", "."): value for name, value in given.items()}
    backbone = "convnet(size=8, channels=3, widths=(4,))"
    run = Run(data=places, backbone=backbone, batch_size=8, workdir=str(folder), split=config.SplitOptions(val=0.0))
    plan = check(replace_options(run, options | {"cache.enabled": False}))
    return plan, prepare_data(plan, {"image": PretrainedCfg(size=8)})


def seen(data, batches, epochs):
    """Share of the source a and of cats among the samples of epochs, and the samples of one of them."""
    train = data.table.split == "train"
    # One picture a sample: its pixels say which it is.
    inputs = data.prepared(train)["image"]
    known = {image.tobytes(): row for row, image in zip(np.flatnonzero(train), inputs, strict=True)}
    rows = [known[image.tobytes()] for x, _, _ in batches for image in x["image"]]
    a = np.mean(data.table.columns["source"][rows] == "a")
    cats = np.mean(data.table.columns["label"][rows] == "cat")
    return a, cats, len(rows) / epochs


@pytest.fixture(scope="module", params=["samples", "largest"])
def weighted(request, places, tmp_path_factory):
    """A run in which the small source has the larger share, of epochs of either length."""
    folder = tmp_path_factory.mktemp("weighted")
    return request.param, *prepared(
        places, folder, augment="", mixture__weights="a=1, b=3", mixture__epoch_length=request.param
    )


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read anew"])
def test_epochs_have_the_shares_and_the_length(weighted, kept):
    """Both of what is kept on disk and of what is read anew in every epoch; steps are counted alike."""
    epoch, plan, data = weighted
    sizes = {name: int(((data.table.columns["source"] == name) & (data.table.split == "train")).sum()) for name in "ab"}
    length = {"samples": sizes["a"] + sizes["b"], "largest": sizes["a"] * 4}[epoch]
    epochs = 6
    if kept:
        fed = prepare_phase_data({}, plan.run.tune, data, training_context(plan))
        assert fed.train is not None
        batches = list(fed.training_batches(0, epochs).as_numpy_iterator())
    else:
        batches = list(data.epochs("train", 0, epochs).as_numpy_iterator())
    assert data.steps * epochs == len(batches)
    a, _, found = seen(data, batches, epochs)
    assert found == length
    assert abs(a - 0.25) < 0.06
    if not kept:
        first = seen(data, batches[: data.steps // 2], 1)[0]
        assert abs(first - 0.25) < 0.2, "the small source comes from the beginning on"


def test_classes_are_balanced_within_each_source(places, tmp_path):
    """`--class_balanced_sampling` beside shares of the sources."""
    _, data = prepared(places, tmp_path, mixture__uniform=True, class_balanced_sampling=True)
    train = data.table.split == "train"
    kinds = list(zip(data.table.columns["source"][train], data.table.columns["label"][train], strict=True))
    chances = {
        kind: sum(c for k, c in zip(kinds, data.sampler.weights, strict=True) if k == kind) for kind in set(kinds)
    }
    assert len(chances) == 4
    assert list(chances.values()) == pytest.approx([0.25] * 4, abs=1e-5)


def test_as_they_are(places, tmp_path):
    """Without options each sample comes once an epoch, and a longest epoch is as long."""
    for epoch in ("samples", "largest"):
        _, data = prepared(places, tmp_path, mixture__epoch_length=epoch)
        assert data.sampler.weights is None
        count = data.table.size("train")
        assert sorted(data.sampler.draw_sample_indices(count, tf.constant(0, tf.int64)).numpy()) == list(range(count))


def test_languages_have_shares_too(tmp_path):
    """By a column of the data; what does not say it cannot be mixed."""
    path = tmp_path / "t.csv"
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "language"])
        writer.writerows([f"{n} words", "xy"[n % 2], "en" if n > 8 else "fi"] for n in range(60))
    run = Run(data=str(path), backbone="bag_of_embeddings()", mixture=MixtureOptions(column="language", uniform=True))
    data = prepare_data(check(run), {"text": PretrainedCfg(size=8, tokenizer="code_points()")})
    mine = data.table.columns["language"][data.table.split == "train"] == "fi"
    assert data.sampler.weights[mine].sum() == pytest.approx(0.5, abs=1e-5)
    other = check(replace_options(run, {"mixture.column": "source"}))
    said = complaint(prepare_data, other, {"text": PretrainedCfg(size=8, tokenizer="code_points()")})
    assert said.startswith("the data does not say the source of a sample, by which to mix")


def test_bad_flags(places, tmp_path):
    """Before anything is written."""
    refused_before_writing(
        {
            ("--mixture.weights=a=1, c=2",): "--mixture.weights names what there is not; received: c; allowed: a, b",
            ("--mixture.weights=a=1",): "--mixture.weights leaves some without a weight; received: b",
            ("--mixture.weights=a=1, b=x",): "--mixture.weights is not understood; received: a=1, b=x",
            (
                "--mixture.weights=a=1, b=2",
                "--mixture.uniform",
            ): "shares are said twice; received: --mixture.weights, --mixture.uniform",
            ("--mixture.temperature=0",): "--mixture.temperature is out of range",
            ("--mixture.column=colour",): "--mixture.column",
        },
        tmp_path / "run",
        f"--data={places}",
        *SMALL,
    )
