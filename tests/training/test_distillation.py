"""A run learns from the answers of other bundles."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.helpers.commands import SMALL, refused, refused_before_writing, shapes, within
from tests.helpers.small_bundle import tower_bundle
from tests.training.test_resume import killed
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.config import CacheOptions, DistillOptions, Phase, Run, SplitOptions
from tfx_finetune.models.split import split_model
from tfx_finetune.run.plan import check, open_run
from tfx_finetune.run.setup import set_up
from tfx_finetune.training.distillation import DISTILLATION, LogitsDistillation, compute_teacher_probs
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.training.trainer import fit_phase

STUDENT = "convnet(size=16, channels=1, widths=(8, 16))"
# As the tower that the shared run trained: whatever it sees, a student with it sees too.
SAME = "convnet(size=24, channels=3, widths=(8, 16, 32))"


def test_the_loss_is_that_of_the_paper():
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), by Keras's own divergence; 0 where both agree."""
    rng = np.random.default_rng(0)
    theirs, mine = rng.normal(size=(2, 6, 4)).astype("float32") * 2
    for hot in (1.0, 3.0):
        softened = [np.asarray(keras.ops.softmax(logits / hot)) for logits in (theirs, mine)]
        known = hot**2 * np.asarray(keras.losses.kl_divergence(*softened))
        found = np.asarray(LogitsDistillation(hot, single_label=True).call(np.asarray(keras.ops.softmax(theirs)), mine))
        assert found == pytest.approx(known, abs=1e-4)
        assert np.asarray(
            LogitsDistillation(hot, single_label=True).call(np.asarray(keras.ops.softmax(mine)), mine)
        ) == pytest.approx(np.zeros(6), abs=1e-5)


def test_the_loss_of_labels_that_do_not_exclude_one_another():
    """The mean over labels of the divergence of two coins: cross-entropy less the teacher's own entropy."""
    rng = np.random.default_rng(0)
    theirs, mine = rng.normal(size=(2, 6, 4)).astype("float32") * 2
    hot = 2.0
    p, q = (1 / (1 + np.exp(-logits / hot)) for logits in (theirs, mine))
    known = hot**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)
    found = np.asarray(LogitsDistillation(hot, single_label=False).call(1 / (1 + np.exp(-theirs)), mine))
    assert found == pytest.approx(known, abs=1e-4)


@pytest.fixture
def made(trained, tmp_path):
    """Makes a checked run on the shapes with the shared bundle as its teacher: plan, data, network and settings."""

    def make(name="run", backbone=STUDENT, augment="flip()", **options):
        run = Run(
            data=str(trained.data),
            backbone=backbone,
            augment=augment,
            workdir=str(tmp_path / name),
            cache=CacheOptions(dir=str(tmp_path / "cache")),
            teacher=str(trained.workdir / "bundle"),
            distill=DistillOptions(alpha=1.0),
            batch_size=16,
            split=SplitOptions(val=0.0),
            finetune=Phase(epochs=12, unfreeze="all", learning_rate=0.01, patience=0),
            frozen=Phase(epochs=0),
        )
        plan, resources = open_run(dataclasses.replace(run, **options))
        return plan, *set_up(plan, resources)

    return make


def told(trained, inputs):
    """The shared bundle's own answers."""
    return Bundle.open(trained.workdir / "bundle").load_model("keras").predict(inputs)["label/scores"]


def test_the_teacher_sees_the_view_that_the_student_sees(made, trained):
    """Kept views: its answers are those to the student's own input, for each view others; found again on disk."""
    plan, data, _, context = made(backbone=SAME)
    folder = plan.workdir / "features"
    found = compute_teacher_probs(data, context, 3)
    for view, mine in enumerate(found):
        inputs = np.concatenate([x["image"] for x, _, _ in data.batches("train", view).as_numpy_iterator()])
        assert mine[f"label/{DISTILLATION}"] == pytest.approx(told(trained, {"image": inputs}), abs=1e-5)
    assert np.abs(found[0][f"label/{DISTILLATION}"] - found[1][f"label/{DISTILLATION}"]).max() > 0.01
    stamps = {place: (place / "0.npy").stat().st_mtime_ns for place in folder.iterdir()}
    again = compute_teacher_probs(data, context, 3)
    assert {place: (place / "0.npy").stat().st_mtime_ns for place in folder.iterdir()} == stamps
    assert np.array_equal(again[2][f"label/{DISTILLATION}"], found[2][f"label/{DISTILLATION}"])


@pytest.mark.parametrize("augment", ["flip(), random_resized_crop()", "mixup()", "cutmix()"])
def test_new_views_are_answered_as_they_come(made, trained, augment):
    """Where all is trained, each batch has the teacher's answer to the very pictures of the batch, mixed ones too."""
    plan, data, _, context = made(backbone=SAME, augment=augment)
    fed = prepare_phase_data({}, Phase(), data, context)
    assert fed.train is None or "mix" in augment
    for x, y, w in fed.training_batches(0, 1).take(2).as_numpy_iterator():
        assert set(y) == set(w) == {"label/logits", f"label/{DISTILLATION}"}
        assert np.array_equal(w["label/logits"], w[f"label/{DISTILLATION}"])
        if fed.train is None:
            assert y[f"label/{DISTILLATION}"] == pytest.approx(told(trained, x), abs=1e-5)
        assert y[f"label/{DISTILLATION}"].sum(-1) == pytest.approx(np.ones(len(x["image"])), abs=1e-5)


def divergence(trained, data, network):
    """Of the student's answers from the teacher's on the training samples: the mean KL divergence."""
    teacher = Bundle.open(trained.workdir / "bundle")
    seen = dataclasses.replace(data, modalities=teacher.modalities)
    theirs = [told(trained, x) for x, _, _ in seen.batches("train").as_numpy_iterator()]
    mine = [
        keras.ops.softmax(network.model(x, training=False)["label/logits"])
        for x, _, _ in data.batches("train").as_numpy_iterator()
    ]
    pairs = zip(theirs, map(np.asarray, mine), strict=True)
    return float(np.mean(np.concatenate([keras.losses.kl_divergence(p, q) for p, q in pairs])))


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["", "flip()"])
def test_answers_alone_bring_the_student_to_its_teacher(made, trained, augment):
    """Another size, another network, w = 1: nearer than labels alone bring it, on kept samples and on new views."""
    found = {}
    for name, options in {"taught": {}, "labels": {"teacher": ""}}.items():
        # Many small steps: the statistics of normalization follow slowly.
        phase = Phase(epochs=40, unfreeze="all", learning_rate=0.01, patience=0)
        student = "convnet(size=20, channels=3, widths=(16, 32, 32))"
        plan, data, network, context = made(name, student, augment, batch_size=8, tune=phase, **options)
        start = divergence(trained, data, network)
        fit_phase(network, "tune", plan.phases["tune"], data, context)
        found[name] = divergence(trained, data, network)
        assert found[name] < start
    assert found["taught"] < 0.5 * found["labels"]


def test_without_weight_the_labels_alone_are_learned(made):
    """w = 0 leaves the weights that a run without a teacher leaves."""
    left = []
    for name, options in {"none": {"teacher": ""}, "idle": {"distill": DistillOptions(alpha=0.0)}}.items():
        plan, data, network, context = made(name, tune=Phase(epochs=2, unfreeze="all"), **options)
        fit_phase(network, "tune", plan.phases["tune"], data, context)
        left.append(network.model.get_weights())
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(*left, strict=True))


def test_behind_a_frozen_trunk(made, trained):
    """The top learns from answers to the views whose features are kept."""
    start = str(trained.workdir / "bundle")
    phase = Phase(epochs=4, augmented_views=2, learning_rate=0.01, unfreeze="1")
    plan, data, network, context = made(backbone="default", init=start, tune=phase, augment="flip(), mixup()")
    assert plan.towers["image"] == check(Run(data=str(trained.data), backbone=SAME)).towers["image"]
    trunks, _ = split_model(network, "1")
    fed = prepare_phase_data(trunks, phase, data, context)
    assert len(fed.train.teacher_targets) == 2
    before = divergence(trained, data, network)
    history = fit_phase(network, "tune", phase, data, context)
    assert before < 1e-6
    # It is its own teacher: there is little to learn.
    assert divergence(trained, data, network) < 0.1
    assert history.epochs == 4


def test_several_teachers_answer_as_their_mean(made, trained, tmp_path):
    """Of probabilities; each one's answers are kept by themselves."""
    first = trained.workdir / "bundle"
    # Random weights, and labels of its own, of which the run's have to be a part.
    other = tower_bundle(tmp_path / "other", STUDENT, labels=("square", "bar", "disc", "star"))
    plan, data, _, context = made(teacher=f"{first}, {other.path}")
    found = compute_teacher_probs(data, context, 1)[0][f"label/{DISTILLATION}"]
    each = []
    for path in (first, other.path):
        *_, alone = made(teacher=str(path))
        each.append(compute_teacher_probs(data, alone, 1)[0][f"label/{DISTILLATION}"])
    assert found == pytest.approx((each[0] + each[1]) / 2, abs=1e-6)
    assert len(list((plan.workdir / "features").iterdir())) == 2
    # Of the four labels three, in the run's order.
    raw = next(iter(dataclasses.replace(data, modalities=other.modalities).batches("train").as_numpy_iterator()))[0]
    scores = other.load_model("keras").predict(raw)["label/scores"][:, [1, 2, 0]]
    assert each[1][: len(scores)] == pytest.approx(scores / scores.sum(-1, keepdims=True), abs=1e-5)


def test_teachers_that_cannot_teach_this(trained, tmp_path):
    """One line each; what the manifest tells, before anything is written."""
    path = trained.workdir / "bundle"
    text = tower_bundle(tmp_path / "text", "bag_of_embeddings(size=8, dim=8)")
    cases = {
        (f"--teacher={tmp_path}",): "not a bundle",
        (f"--teacher={path},{text.path}",): "the teacher takes something else than this run; received: text (text)",
        (f"--teacher={path}", "--heads=kind=classify()"): "the teacher has no head kind; received: label of",
        (f"--teacher={path}", "--heads=tag()"): "the teacher's head label is of another kind; received: classify()",
        (f"--teacher={path}", "--distill.alpha=1.5"): "--distill.alpha is out of range",
        (f"--teacher={path}", "--distill.temperature=0"): "--distill.temperature is out of range",
    }
    refused_before_writing(cases, tmp_path / "run", f"--data={trained.data}", *SMALL)


def test_a_teacher_that_lacks_a_label(trained, tmp_path):
    """It is said which, before anything is trained."""
    data = shapes(tmp_path / "shapes", each=14)
    (data / "disc").rename(data / "circle")
    said = refused(
        "train", f"--data={data}", *SMALL, f"--teacher={trained.workdir / 'bundle'}", f"--workdir={tmp_path / 'r'}"
    )
    assert "the teacher does not know all labels of label; received: circle of the data, which" in said
    assert not (tmp_path / "r" / "tensorboard").exists()


@pytest.mark.slow
def test_a_taught_run_that_is_killed_goes_on(trained, tmp_path):
    """To the model of an undisturbed run, which the same seed gives again; the report says who taught."""
    flags = (
        *trained.flags,
        f"--teacher={trained.workdir / 'bundle'}",
        "--exports=keras_file()",
        "--frozen.epochs=0",
        "--finetune.epochs=5",
    )
    whole = within("train", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    assert "taught by" in (tmp_path / "whole" / "report.html").read_text()
    killed(tmp_path / "run", flags, 2)
    found = within("train", *flags, f"--workdir={tmp_path / 'run'}")
    assert found.returncode == 0, found.stderr
    histories = [
        json.loads((tmp_path / name / "checkpoints" / "tune" / "history.json").read_text())["metrics"]
        for name in ("whole", "run")
    ]
    assert histories[0] == histories[1]
