"""Languages together, apart and then merged, or one after another."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.commands import get_error, check_errors_before_writing, run_in_process
from tests.helpers.small_data import complaint
from tests.tasks.test_routing import WORDS, table
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import config
from tfx_finetune.core.options import replace_options
from tfx_finetune.core.config import Run
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
AGAINST = {"en": WORDS["en"], "xx": WORDS["en"][::-1]}
"""Two languages that contradict each other."""


def trained(folder, data, *flags):
    found = run_in_process("train", f"--data={data}", *SMALL, *flags, f"--workdir={folder}")
    assert found.returncode == 0, found.stderr
    return Bundle.open(folder / "bundle"), found.stderr


def kept(folder, phase):
    """Weights that a phase left, in the order of the model."""
    with np.load(folder / "checkpoints" / phase / "weights.npz") as found:
        return [found[f"weights_{at}"] for at in range(sum(name.startswith("weights_") for name in found.files))]


def scores(bundle):
    return json.loads((bundle.path / "scores.json").read_text())


def test_backward_transfer_by_hand():
    """Of three languages the first two: 0.6 - 0.9 and 0.8 - 0.7, on the mean."""
    found = ContinualMetrics(("a", "b", "c"), (0.3, 0.3, 0.3), ((0.9, 0.5, 0.4), (0.7, 0.7, 0.4), (0.6, 0.8, 0.9)))
    assert found.bwt == pytest.approx(-0.1)


@pytest.mark.slow
def test_one_language_after_another_is_forgotten(tmp_path):
    """Where the second contradicts the first; and the same command goes on after any turn, to the same result."""
    data = table(tmp_path / "t.csv", AGAINST)
    flags = ("--strategy=sequential", "--language_order=en,xx", "--finetune.learning_rate=0.1")
    bundle, said = trained(tmp_path / "run", data, *flags)
    found = scores(bundle)["continual"]
    assert found["languages"] == ["en", "xx"]
    (first, _), (then, second) = found["scores"]
    assert min(first, second) > 0.9
    assert then < 0.5
    assert found["bwt"] == pytest.approx(then - first)
    assert f"backward transfer: {then - first:+.3f}" in said
    assert "Sequential training" in (tmp_path / "run" / "report.html").read_text()
    for gone in ("checkpoints/finetune_2_xx", "bundle"):
        shutil.rmtree(tmp_path / "run" / gone)
    again, said = trained(tmp_path / "run", data, *flags)
    assert "finetune_1_en" not in said
    assert scores(again)["test"] == scores(bundle)["test"]
    assert scores(again)["continual"] == found


@pytest.mark.slow
def test_merged_weights_are_the_mean_of_what_each_language_left(tmp_path):
    """And another merge in the same work folder trains nothing."""
    data = table(tmp_path / "t.csv", WORDS)
    flags = ("--strategy=per_language_then_merge", "--finetune.epochs=1")
    bundle, _ = trained(tmp_path / "run", data, *flags)
    start, *each = (kept(tmp_path / "run", phase) for phase in ("frozen", "finetune_1_en", "finetune_2_fi"))
    ours = load_keras_file(bundle.path, bundle.manifest).get_weights()
    for value, *theirs in zip(ours, *each, strict=True):
        np.testing.assert_allclose(value, np.mean(theirs, axis=0), rtol=1e-4, atol=1e-6)
    bundle, said = trained(tmp_path / "run", data, *flags, "--merge=task_arithmetic(scale=0.7)")
    assert "finetune_1_en" not in said
    ours = load_keras_file(bundle.path, bundle.manifest).get_weights()
    for value, began, *theirs in zip(ours, start, *each, strict=True):
        wanted = began + 0.7 * sum(their - began for their in theirs)
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
    bundle, said = trained(tmp_path / "run", data, *flags, "--merge=ties()")
    assert "chosen on validation samples; validation score" in said
    assert "chosen on validation samples" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_head_of_one_language_is_merged_with_none(tmp_path):
    """It learns in its own turn alone, and is kept as that left it; the one that tells languages learns in none."""
    data = table(tmp_path / "t.csv", WORDS)
    heads = ("--heads=classify(l2_to_shared=0.001)", "--heads_by=language")
    bundle, _ = trained(tmp_path / "run", data, *heads, "--strategy=per_language_then_merge", "--finetune.epochs=1")
    model = load_keras_file(bundle.path, bundle.manifest)
    order = [id(weight) for weight in model.weights]
    phases = {name: kept(tmp_path / "run", name) for name in ("frozen", "finetune_1_en", "finetune_2_fi")}
    learned = {"en": "finetune_1_en", "fi": "finetune_2_fi", "language": "frozen"}
    for head, phase in learned.items():
        (name,) = bundle.manifest["layer_names"]["heads"][head]
        for weight in model.get_layer(name).weights:
            at = order.index(id(weight))
            values = {phase: weights[at] for phase, weights in phases.items()}
            assert np.array_equal(weight.numpy(), values[phase])
            others = {other for other in phases if np.array_equal(values[other], values["frozen"])}
            assert others == set(phases) - ({phase} - {"frozen"}), "it has learned in another turn"


def test_turns(tmp_path):
    """The largest first; a share of those before is replayed, no sample of the held-out ones."""
    data = table(tmp_path / "t.csv", {"fi": WORDS["fi"]}, each=20)
    more = table(tmp_path / "more.csv", {"en": WORDS["en"]}, each=40).read_text().partition("\n")[2]
    data.write_text(data.read_text() + more)
    given = {"strategy": "sequential", "rehearsal": 0.25, "backbone": TOWER, "workdir": str(tmp_path / "run")}
    plan = check(replace_options(Run(data=str(data)), given))
    found, *_ = set_up(plan)
    first, second = make_language_tasks(found, plan.run, plan.heads_by)
    assert (first.language, second.language) == ("en", "fi")
    lanes, split, mine = found.table.columns["language"], found.table.split, second.data.table.split
    assert np.array_equal(first.data.table.split, np.where(lanes == "en", split, ""))
    replayed = (mine != "") & (lanes == "en")
    assert set(split[replayed]) == {"train"}
    assert replayed.sum() == round(0.25 * ((lanes == "en") & (split == "train")).sum())
    assert np.array_equal(mine[lanes == "fi"], split[lanes == "fi"])


def test_what_does_not_go_together_is_said_before_anything_is_written(tmp_path):
    """On one line."""
    data = table(tmp_path / "t.csv", WORDS, each=10)
    cases = {
        ("--strategy=sequential", "--finetune.epochs=0"): "which has no epochs",
        ("--merge=ties()",): "--merge is for --strategy=per_language_then_merge; received: --strategy=joint",
        ("--rehearsal=0.1",): "--rehearsal is for --strategy=sequential",
        ("--strategy=per_language_then_merge", "--merge=tie()"): "unknown merge; received: tie",
        ("--strategy=sequential", "--mixture.uniform"): "--mix has no part in --strategy=sequential",
        (
            "--strategy=sequential",
            "--auxiliary_losses=coral()",
        ): "--auxiliary_losses has no part in --strategy=sequential",
        ("--strategy=apart",): "--strategy is not one of its choices",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={data}", *SMALL)


@pytest.mark.parametrize(
    ("lanes", "options", "said"),
    [
        ({"en": WORDS["en"]}, {}, "--strategy=sequential takes several languages; received: en in the column language"),
        (WORDS, {"language_order": "en, sv"}, "--language_order does not name every one of the data once"),
        (WORDS, {"split.val": 0.0}, "--strategy=sequential needs validation samples"),
    ],
)
def test_data_that_cannot_be_taken_apart(tmp_path, lanes, options, said):
    """On one line, before training."""
    data = table(tmp_path / "t.csv", lanes, each=10)
    given = {"strategy": "sequential", "backbone": TOWER, "workdir": str(tmp_path / "run")} | options
    plan = check(replace_options(Run(data=str(data)), given))
    found, *_ = set_up(plan)
    assert said in complaint(make_language_tasks, found, plan.run, plan.heads_by)


def test_trials_train_languages_together(tmp_path):
    """So that what they find is not of another strategy."""
    data = table(tmp_path / "t.csv", WORDS, each=10)
    flags = (f"--data={data}", *SMALL, "--strategy=sequential", f"--workdir={tmp_path / 'run'}")
    assert "trials train languages together" in get_error("tune", *flags, "--trials=1")
