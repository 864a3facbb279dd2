"""How much of what is learned from comes from each source."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import SMALL, refused_before_writing
from tests.small_data import class_folder, complaint, picture
from tfx_finetune.core import config
from tfx_finetune.core.config import Mixing, Run
from tfx_finetune.datasets.mixture_weights import parse_weights, shares
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training.phase_data import feed
from tfx_finetune.types.components import Card

SIZES = {"a": 900, "b": 90, "c": 10}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (Mixing(), [0.9, 0.09, 0.01]),
        (Mixing(temperature=2.0), [30 / 42.649, 9.487 / 42.649, 3.162 / 42.649]),
        (Mixing(temperature=1e9), [1 / 3] * 3),
        (Mixing(balance=True), [1 / 3] * 3),
        (Mixing(weights="c=1, a=2.5,b=.5"), [0.625, 0.125, 0.25]),
    ],
)
def test_shares(mix, expected):
    """p ~ n^(1/T), by hand: the square roots of 900, 90 and 10 are 30, 9.487 and 3.162."""
    found = shares(SIZES, mix)
    assert list(found) == list(SIZES)
    assert list(found.values()) == pytest.approx(expected, abs=1e-4)
    assert sum(found.values()) == pytest.approx(1)


def test_a_low_temperature_does_not_overflow():
    """The largest is all that is seen."""
    assert shares({"a": 10**6, "b": 10}, Mixing(temperature=0.01)) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("text", ["a", "a=", "a=-1", "a=0", "a=1, a=2", "=1", "a=1,", "a=1e3"])
def test_what_is_no_weight(text):
    """Each is refused with what was received."""
    assert complaint(parse_weights, text).startswith("--mix.weights is not understood; received: ")


def test_weights_name_all_and_them_alone():
    """Otherwise a source would silently have none."""
    assert "leaves some without a weight; received: b, c" in complaint(shares, SIZES, Mixing(weights="a=1"))
    said = complaint(shares, {"mnist": 1, "web": 2}, Mixing(weights="mnit=1, web=2"))
    assert said.endswith(
        "--mix.weights names what there is not; received: mnit; allowed: mnist, web; did you mean mnist?"
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
    run = Run(sources=places, backbone=backbone, batch_size=8, workdir=str(folder), samples=config.Samples(val=0.0))
    plan = check(config.replace(run, options | {"cache.enabled": False}))
    return plan, prepare_data(plan, {"image": Card(size=8)})


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
    return request.param, *prepared(places, folder, augment="", mix__weights="a=1, b=3", mix__epoch=request.param)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read anew"])
def test_epochs_have_the_shares_and_the_length(weighted, kept):
    """Both of what is kept on disk and of what is read anew in every epoch; steps are counted alike."""
    epoch, plan, data = weighted
    sizes = {name: int(((data.table.columns["source"] == name) & (data.table.split == "train")).sum()) for name in "ab"}
    length = {"samples": sizes["a"] + sizes["b"], "largest": sizes["a"] * 4}[epoch]
    epochs = 6
    if kept:
        fed = feed({}, plan.run.tune, data, training_context(plan))
        assert fed.train is not None
        batches = list(fed.batches(0, epochs).as_numpy_iterator())
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
    """`--samples.balance` beside shares of the sources."""
    _, data = prepared(places, tmp_path, mix__balance=True, samples__balance=True)
    train = data.table.split == "train"
    kinds = list(zip(data.table.columns["source"][train], data.table.columns["label"][train], strict=True))
    chances = {kind: sum(c for k, c in zip(kinds, data.order.chances, strict=True) if k == kind) for kind in set(kinds)}
    assert len(chances) == 4
    assert list(chances.values()) == pytest.approx([0.25] * 4, abs=1e-5)


def test_as_they_are(places, tmp_path):
    """Without options each sample comes once an epoch, and a longest epoch is as long."""
    for epoch in ("samples", "largest"):
        _, data = prepared(places, tmp_path, mix__epoch=epoch)
        assert data.order.chances is None
        count = data.table.size("train")
        assert sorted(data.order.rows(count, tf.constant(0, tf.int64)).numpy()) == list(range(count))


def test_languages_have_shares_too(tmp_path):
    """By a column of the data; what does not say it cannot be mixed."""
    path = tmp_path / "t.csv"
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "language"])
        writer.writerows([f"{n} words", "xy"[n % 2], "en" if n > 8 else "fi"] for n in range(60))
    run = Run(data=str(path), backbone="bag_of_embeddings()", mix=Mixing(by="language", balance=True))
    data = prepare_data(check(run), {"text": Card(size=8, tokenizer="code_points()")})
    mine = data.table.columns["language"][data.table.split == "train"] == "fi"
    assert data.order.chances[mine].sum() == pytest.approx(0.5, abs=1e-5)
    other = check(config.replace(run, {"mix.by": "source"}))
    said = complaint(prepare_data, other, {"text": Card(size=8, tokenizer="code_points()")})
    assert said.startswith("the data does not say the source of a sample, by which to mix")


def test_bad_flags(places, tmp_path):
    """Before anything is written."""
    refused_before_writing(
        {
            ("--mix.weights=a=1, c=2",): "--mix.weights names what there is not; received: c; allowed: a, b",
            ("--mix.weights=a=1",): "--mix.weights leaves some without a weight; received: b",
            ("--mix.weights=a=1, b=x",): "--mix.weights is not understood; received: a=1, b=x",
            (
                "--mix.weights=a=1, b=2",
                "--mix.balance",
            ): "shares are said twice; received: --mix.weights, --mix.balance",
            ("--mix.temperature=0",): "--mix.temperature is out of range",
            ("--mix.by=colour",): "--mix.by",
        },
        tmp_path / "run",
        f"--sources={places}",
        *SMALL,
    )
