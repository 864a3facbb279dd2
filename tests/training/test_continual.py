"""Tests of training languages together, separately and then merged, or one after another."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.commands import check_errors_before_writing, get_error, run_in_process
from tests.helpers.small_data import complaint
from tests.tasks.test_routing import WORDS, table
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.config import Run
from tfx_finetune.core.options import replace_options
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.models.backbones.bundle import load_keras_file
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import set_up
from tfx_finetune.training.language_tasks import make_language_tasks

TOWER = "bag_of_embeddings(size=24, dim=16)"
SMALL = (
    "--nocache.enabled",
    f"--backbone={TOWER}",
    "--batch_size=8",
    "--frozen.epochs=1",
    "--finetune.epochs=4",
    "--finetune.learning_rate=0.03",
    "--finetune.soup_epochs=0",
    "--nofinetune.wise_ft",
    "--exports=keras_file()",
)
CONTRADICTING_WORDS = {"en": WORDS["en"], "xx": WORDS["en"][::-1]}
"""Two languages that contradict each other."""


def train(folder, data, *flags):
    result = run_in_process("train", f"--data={data}", *SMALL, *flags, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return Bundle.open(folder / "bundle"), result.stderr


def read_weights(folder, phase):
    """Read the weights of a phase in the order of the model."""
    with np.load(folder / "checkpoints" / phase / "weights.npz") as arrays:
        count = sum(name.startswith("weights_") for name in arrays.files)
        return [arrays[f"weights_{i}"] for i in range(count)]


def read_scores(bundle):
    return json.loads((bundle.path / "scores.json").read_text())


def test_backward_transfer_is_the_mean_change_of_earlier_languages():
    """The scores of the first two languages change by 0.6 - 0.9 and 0.8 - 0.7."""
    metrics = ContinualMetrics(("a", "b", "c"), (0.3, 0.3, 0.3), ((0.9, 0.5, 0.4), (0.7, 0.7, 0.4), (0.6, 0.8, 0.9)))
    assert metrics.bwt == pytest.approx(-0.1)


@pytest.mark.slow
def test_sequential_training_forgets_a_contradicted_language(tmp_path):
    """The second language contradicts the first. The same command resumes after any language to the same result."""
    data = table(tmp_path / "t.csv", CONTRADICTING_WORDS)
    flags = ("--strategy=sequential", "--language_order=en,xx", "--finetune.learning_rate=0.1")
    bundle, printed = train(tmp_path / "run", data, *flags)
    metrics = read_scores(bundle)["continual"]
    assert metrics["languages"] == ["en", "xx"]
    (first, _), (first_later, second) = metrics["scores"]
    assert min(first, second) > 0.9
    assert first_later < 0.5
    assert metrics["bwt"] == pytest.approx(first_later - first)
    assert f"backward transfer: {first_later - first:+.3f}" in printed
    assert "Sequential training" in (tmp_path / "run" / "report.html").read_text()
    scores = read_scores(bundle)
    for folder in ("checkpoints/finetune_2_xx", "bundle"):
        shutil.rmtree(tmp_path / "run" / folder)
    resumed, printed = train(tmp_path / "run", data, *flags)
    assert "finetune_1_en" not in printed
    assert read_scores(resumed)["test"] == scores["test"]
    assert read_scores(resumed)["continual"] == metrics


@pytest.mark.slow
def test_merged_weights_are_the_mean_over_languages(tmp_path):
    """Another merge in the same work folder trains nothing."""
    data = table(tmp_path / "t.csv", WORDS)
    flags = ("--strategy=per_language_then_merge", "--finetune.epochs=1")
    bundle, _ = train(tmp_path / "run", data, *flags)
    phases = ("frozen", "finetune_1_en", "finetune_2_fi")
    initial_weights, *by_language = (read_weights(tmp_path / "run", phase) for phase in phases)
    merged = load_keras_file(bundle.path, bundle.manifest).get_weights()
    for value, *finetuned in zip(merged, *by_language, strict=True):
        np.testing.assert_allclose(value, np.mean(finetuned, axis=0), rtol=1e-4, atol=1e-6)
    bundle, printed = train(tmp_path / "run", data, *flags, "--merge=task_arithmetic(scale=0.7)")
    assert "finetune_1_en" not in printed
    merged = load_keras_file(bundle.path, bundle.manifest).get_weights()
    for value, initial, *finetuned in zip(merged, initial_weights, *by_language, strict=True):
        expected = initial + 0.7 * sum(weight - initial for weight in finetuned)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    bundle, printed = train(tmp_path / "run", data, *flags, "--merge=ties()")
    assert "selected on validation samples; validation score" in printed
    assert "selected on validation samples" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_per_language_heads_are_not_merged(tmp_path):
    """A head is trained in the task of its language only; the language classifier is trained in no task."""
    data = table(tmp_path / "t.csv", WORDS)
    heads = ("--heads=classify(l2_to_shared=0.001)", "--heads_by=language")
    bundle, _ = train(tmp_path / "run", data, *heads, "--strategy=per_language_then_merge", "--finetune.epochs=1")
    model = load_keras_file(bundle.path, bundle.manifest)
    order = [id(weight) for weight in model.weights]
    phases = {name: read_weights(tmp_path / "run", name) for name in ("frozen", "finetune_1_en", "finetune_2_fi")}
    trained_in = {"en": "finetune_1_en", "fi": "finetune_2_fi", "language": "frozen"}
    for head, phase in trained_in.items():
        (name,) = bundle.manifest["layer_names"]["heads"][head]
        for weight in model.get_layer(name).weights:
            index = order.index(id(weight))
            values = {name: weights[index] for name, weights in phases.items()}
            assert np.array_equal(weight.numpy(), values[phase])
            unchanged = {name for name in phases if np.array_equal(values[name], values["frozen"])}
            assert unchanged == set(phases) - ({phase} - {"frozen"}), "the head was trained in another task"


def test_language_tasks_rehearse_earlier_languages(tmp_path):
    """The largest language comes first; a fraction of its training samples is in the next task, no other samples."""
    path = table(tmp_path / "t.csv", {"fi": WORDS["fi"]}, count=20)
    more = table(tmp_path / "more.csv", {"en": WORDS["en"]}, count=40).read_text().partition("\n")[2]
    path.write_text(path.read_text() + more)
    options = {"strategy": "sequential", "rehearsal": 0.25, "backbone": TOWER, "workdir": str(tmp_path / "run")}
    plan = check(replace_options(Run(data=str(path)), options))
    data, *_ = set_up(plan)
    first, second = make_language_tasks(data, plan.run, plan.heads_by)
    assert (first.language, second.language) == ("en", "fi")
    languages, split, second_split = data.table.columns["language"], data.table.split, second.data.table.split
    assert np.array_equal(first.data.table.split, np.where(languages == "en", split, ""))
    rehearsed = (second_split != "") & (languages == "en")
    assert set(split[rehearsed]) == {"train"}
    assert rehearsed.sum() == round(0.25 * ((languages == "en") & (split == "train")).sum())
    assert np.array_equal(second_split[languages == "fi"], split[languages == "fi"])


def test_contradicting_options_raise_an_error_before_anything_is_written(tmp_path):
    """The error is one line."""
    data = table(tmp_path / "t.csv", WORDS, count=10)
    cases = {
        ("--strategy=sequential", "--finetune.epochs=0"): "--strategy=sequential needs epochs in phase finetune",
        ("--merge=ties()",): "--merge needs --strategy=per_language_then_merge: --strategy=joint",
        ("--rehearsal=0.1",): "--rehearsal needs --strategy=sequential",
        ("--strategy=per_language_then_merge", "--merge=tie()"): "Unknown merge: tie",
        ("--strategy=sequential", "--mixture.temperature=inf"): "--mixture needs --strategy=joint",
        ("--strategy=sequential", "--auxiliary_losses=coral()"): "--auxiliary_losses needs --strategy=joint",
        ("--strategy=apart",): "--strategy is not one of its choices",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={data}", *SMALL)


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ({"en": WORDS["en"]}, {}, "--strategy=sequential needs several languages: en in the column language"),
        (
            WORDS,
            {"language_order": "en, sv"},
            "--language_order does not name every language of the data once: en, sv. Expected: en, fi.",
        ),
        (WORDS, {"split.val": 0.0}, "--strategy=sequential needs validation samples"),
    ],
)
def test_data_without_the_needed_languages_raises_an_error(tmp_path, words, options, message):
    """The error is one line and comes before training."""
    path = table(tmp_path / "t.csv", words, count=10)
    run_options = {"strategy": "sequential", "backbone": TOWER, "workdir": str(tmp_path / "run")} | options
    plan = check(replace_options(Run(data=str(path)), run_options))
    data, *_ = set_up(plan)
    assert message in complaint(make_language_tasks, data, plan.run, plan.heads_by)


def test_tuning_needs_the_joint_strategy(tmp_path):
    """Trials train all languages together, so that their options fit no other strategy."""
    data = table(tmp_path / "t.csv", WORDS, count=10)
    flags = (f"--data={data}", *SMALL, "--strategy=sequential", f"--workdir={tmp_path / 'run'}")
    assert "`tune` needs --strategy=joint: --strategy=sequential" in get_error("tune", *flags, "--trials=1")
