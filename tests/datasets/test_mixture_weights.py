"""Sampling weights of sources, languages and classes."""

import csv
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import SMALL_FLAGS, check_errors_before_writing
from tests.helpers.small_data import class_folder, complaint, picture
from tfx_finetune.core import config
from tfx_finetune.core.config import MixtureOptions, Run
from tfx_finetune.core.options import replace_options
from tfx_finetune.datasets.mixture_weights import compute_mixture_weights, parse_weights
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.types.components import PretrainedCfg

SIZES = {"a": 900, "b": 90, "c": 10}


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (MixtureOptions(), [0.9, 0.09, 0.01]),
        (MixtureOptions(temperature=2.0), [30 / 42.649, 9.487 / 42.649, 3.162 / 42.649]),
        (MixtureOptions(temperature=1e9), [1 / 3] * 3),
        (MixtureOptions(temperature=math.inf), [1 / 3] * 3),
        (MixtureOptions(weights="c=1, a=2.5,b=.5"), [0.625, 0.125, 0.25]),
    ],
)
def test_mixture_weights(mixture, expected):
    """Weights are p ~ n^(1/T): the square roots of 900, 90 and 10 are 30, 9.487 and 3.162."""
    weights = compute_mixture_weights(SIZES, mixture)
    assert list(weights) == list(SIZES)
    assert list(weights.values()) == pytest.approx(expected, abs=1e-4)
    assert sum(weights.values()) == pytest.approx(1)


def test_a_low_temperature_does_not_overflow():
    """The largest source gets the weight 1."""
    assert compute_mixture_weights({"a": 10**6, "b": 10}, MixtureOptions(temperature=0.01)) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("text", ["a", "a=", "a=-1", "a=0", "a=1, a=2", "=1", "a=1,", "a=1e3"])
def test_invalid_weights(text):
    """The message has the invalid text."""
    assert complaint(parse_weights, text).startswith(f"--mixture.weights is malformed: {text}. ")


def test_weights_name_exactly_the_sources():
    """Missing and unknown names are refused."""
    assert "--mixture.weights lacks a weight: b, c. " in complaint(
        compute_mixture_weights, SIZES, MixtureOptions(weights="a=1")
    )
    message = complaint(compute_mixture_weights, {"mnist": 1, "web": 2}, MixtureOptions(weights="mnit=1, web=2"))
    assert message == "--mixture.weights has an unknown name: mnit. Expected: mnist, web. Did you mean mnist?"


@pytest.fixture(scope="module")
def data_spec(tmp_path_factory):
    """Write a large and a small source of two classes, one of which is rare, and return their specs."""
    root = tmp_path_factory.mktemp("weights")
    class_folder(root / "a", cat=60, dog=20)
    for number, path in enumerate(sorted(class_folder(root / "b", cat=4, dog=6).rglob("*.png"))):
        picture(path, 9000 + number)  # none is a copy
    return f"a=folder({str(root / 'a')!r}), b=folder({str(root / 'b')!r})"


def prepare(data_spec, folder, **run_options):
    """Return the plan and the data of a run."""
    options = {name.replace("__", "."): value for name, value in run_options.items()}
    backbone = "convnet(size=8, channels=3, widths=(4,))"
    run = Run(data=data_spec, backbone=backbone, batch_size=8, workdir=str(folder), split=config.SplitOptions(val=0.0))
    plan = check(replace_options(run, options | {"cache.enabled": False}))
    return plan, prepare_data(plan, {"image": PretrainedCfg(size=8)})


def measure(data, batches, epochs):
    """Return the fraction of the source a among the samples of some epochs, and the number of samples per epoch."""
    train = data.table.split == "train"
    # All images are different: the pixels identify the sample.
    inputs = data.prepared_inputs(train)["image"]
    row_of_image = {image.tobytes(): row for row, image in zip(np.flatnonzero(train), inputs, strict=True)}
    rows = [row_of_image[image.tobytes()] for x, _, _ in batches for image in x["image"]]
    return np.mean(data.table.columns["source"][rows] == "a"), len(rows) / epochs


@pytest.fixture(scope="module", params=["samples", "largest"])
def weighted(request, data_spec, tmp_path_factory):
    """Prepare a run in which the small source has the larger weight, for both epoch lengths."""
    folder = tmp_path_factory.mktemp("weighted")
    return request.param, *prepare(
        data_spec, folder, augment="", mixture__weights="a=1, b=3", mixture__epoch_length=request.param
    )


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "read"])
def test_epochs_have_the_weights_and_the_length(weighted, cached):
    """Cached samples and samples that are read in every epoch have the same weights and number of steps."""
    epoch_length, plan, data = weighted
    sizes = {name: int(((data.table.columns["source"] == name) & (data.table.split == "train")).sum()) for name in "ab"}
    length = {"samples": sizes["a"] + sizes["b"], "largest": sizes["a"] * 4}[epoch_length]
    epochs = 6
    if cached:
        phase_data = prepare_phase_data({}, plan.run.finetune, data, training_context(plan))
        assert phase_data.train is not None
        batches = list(phase_data.training_batches(0, epochs).as_numpy_iterator())
    else:
        batches = list(data.make_epoch_batches("train", 0, epochs).as_numpy_iterator())
    assert data.steps * epochs == len(batches)
    fraction, samples_per_epoch = measure(data, batches, epochs)
    assert samples_per_epoch == length
    assert abs(fraction - 0.25) < 0.06
    if not cached:
        first_fraction, _ = measure(data, batches[: data.steps // 2], 1)
        assert abs(first_fraction - 0.25) < 0.2, "the small source is sampled from the beginning"


def test_classes_are_balanced_within_each_source(data_spec, tmp_path):
    """`--class_balanced_sampling` balances the classes of each weighted source."""
    _, data = prepare(data_spec, tmp_path, mixture__temperature=math.inf, class_balanced_sampling=True)
    train = data.table.split == "train"
    strata = list(zip(data.table.columns["source"][train], data.table.columns["label"][train], strict=True))
    stratum_weights = dict.fromkeys(strata, 0.0)
    for stratum, weight in zip(strata, data.sampler.weights, strict=True):
        stratum_weights[stratum] += weight
    assert len(stratum_weights) == 4
    assert list(stratum_weights.values()) == pytest.approx([0.25] * 4, abs=1e-5)


def test_no_weights_by_default(data_spec, tmp_path):
    """Without options, every sample is used once per epoch, for both epoch lengths."""
    for epoch_length in ("samples", "largest"):
        _, data = prepare(data_spec, tmp_path, mixture__epoch_length=epoch_length)
        assert data.sampler.weights is None
        count = data.table.size("train")
        assert sorted(data.sampler.draw_sample_indices(count, tf.constant(0, tf.int64)).numpy()) == list(range(count))


def test_weights_of_languages(tmp_path):
    """Languages of a column have weights; a missing column is refused."""
    path = tmp_path / "t.csv"
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "language"])
        writer.writerows([f"{n} words", "xy"[n % 2], "en" if n > 8 else "fi"] for n in range(60))
    run = Run(
        data=str(path), backbone="bag_of_embeddings()", mixture=MixtureOptions(temperature=math.inf, column="language")
    )
    data = prepare_data(check(run), {"text": PretrainedCfg(size=8, tokenizer="code_points()")})
    is_finnish = data.table.columns["language"][data.table.split == "train"] == "fi"
    assert data.sampler.weights[is_finnish].sum() == pytest.approx(0.5, abs=1e-5)
    plan = check(replace_options(run, {"mixture.column": "source"}))
    message = complaint(prepare_data, plan, {"text": PretrainedCfg(size=8, tokenizer="code_points()")})
    assert message.startswith("--mixture needs the column source, which the data lacks. ")


def test_bad_flags(data_spec, tmp_path):
    """Invalid options are refused before anything is written."""
    check_errors_before_writing(
        {
            ("--mixture.weights=a=1, c=2",): "--mixture.weights has an unknown name: c. Expected: a, b.",
            ("--mixture.weights=a=1",): "--mixture.weights lacks a weight: b. ",
            ("--mixture.weights=a=1, b=x",): "--mixture.weights is malformed: a=1, b=x. ",
            (
                "--mixture.weights=a=1, b=2",
                "--mixture.temperature=inf",
            ): "Two options define the sampling weights: --mixture.weights, --mixture.temperature. ",
            ("--mixture.temperature=0",): "--mixture.temperature is out of range",
            ("--mixture.column=colour",): "--mixture.column",
        },
        tmp_path / "run",
        f"--data={data_spec}",
        *SMALL_FLAGS,
    )
