"""Tests of distillation from other bundles."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.helpers.commands import SMALL_FLAGS, check_errors_before_writing, get_error, run_in_process, write_shapes
from tests.helpers.small_bundle import tower_bundle
from tests.training.test_resume import kill_run
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.config import CacheOptions, DistillOptions, Phase, Run, SplitOptions
from tfx_finetune.models.split import split_model
from tfx_finetune.run.plan import check, open_run
from tfx_finetune.run.setup import set_up
from tfx_finetune.training.distillation import DISTILLATION, LogitsDistillation, compute_teacher_probs
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.training.trainer import fit_phase

STUDENT = "convnet(size=16, channels=1, widths=(8, 16))"
# The backbone of the shared run, so that student and teacher have the same inputs.
TEACHER_BACKBONE = "convnet(size=24, channels=3, widths=(8, 16, 32))"


def test_the_loss_is_the_kl_divergence_of_softened_probabilities():
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) equals Keras's divergence, and is 0 for equal logits."""
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 6, 4)).astype("float32") * 2
    for temperature in (1.0, 3.0):
        softened = [np.asarray(keras.ops.softmax(logits / temperature)) for logits in (teacher, student)]
        expected = temperature**2 * np.asarray(keras.losses.kl_divergence(*softened))
        loss = LogitsDistillation(temperature, single_label=True)
        losses = np.asarray(loss.call(np.asarray(keras.ops.softmax(teacher)), student))
        assert losses == pytest.approx(expected, abs=1e-4)
        losses = np.asarray(loss.call(np.asarray(keras.ops.softmax(student)), student))
        assert losses == pytest.approx(np.zeros(6), abs=1e-5)


def test_the_multi_label_loss_is_the_mean_of_binary_divergences():
    """The divergence of a label is the cross-entropy minus the entropy of the teacher."""
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 6, 4)).astype("float32") * 2
    temperature = 2.0
    p, q = (1 / (1 + np.exp(-logits / temperature)) for logits in (teacher, student))
    expected = temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)
    loss = LogitsDistillation(temperature, single_label=False)
    losses = np.asarray(loss.call(1 / (1 + np.exp(-teacher)), student))
    assert losses == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def set_up_run(trained_run, tmp_path):
    """Return a function that sets up a run with the shared bundle as its teacher: plan, data, network and context."""

    def set_up_named(name="run", backbone=STUDENT, augment="flip()", **options):
        run = Run(
            data=str(trained_run.data),
            backbone=backbone,
            augment=augment,
            workdir=str(tmp_path / name),
            cache=CacheOptions(dir=str(tmp_path / "cache")),
            teacher=str(trained_run.workdir / "bundle"),
            distill=DistillOptions(alpha=1.0),
            batch_size=16,
            split=SplitOptions(val=0.0),
            finetune=Phase(epochs=12, unfreeze="all", learning_rate=0.01, patience=0),
            frozen=Phase(epochs=0),
        )
        plan, resources = open_run(dataclasses.replace(run, **options))
        data, network, context = set_up(plan, resources)
        return plan, data, network, dataclasses.replace(context, features_folder=plan.workdir / "features")

    return set_up_named


def predict_with_teacher(trained_run, inputs):
    """Return the scores of the shared bundle."""
    return Bundle.open(trained_run.workdir / "bundle").load_model("keras").predict(inputs)["label/scores"]


def test_the_teacher_sees_the_views_of_the_student(set_up_run, trained_run):
    """For cached views, its probabilities are those of the inputs of the student; they are read from disk again."""
    plan, data, _, context = set_up_run(backbone=TEACHER_BACKBONE)
    folder = plan.workdir / "features"
    views = compute_teacher_probs(data, context, 3)
    for view, probs in enumerate(views):
        inputs = np.concatenate([x["image"] for x, _, _ in data.make_batches("train", view).as_numpy_iterator()])
        assert probs[f"label/{DISTILLATION}"] == pytest.approx(
            predict_with_teacher(trained_run, {"image": inputs}), abs=1e-5
        )
    assert np.abs(views[0][f"label/{DISTILLATION}"] - views[1][f"label/{DISTILLATION}"]).max() > 0.01
    stamps = {path: (path / "0.npy").stat().st_mtime_ns for path in folder.iterdir()}
    cached = compute_teacher_probs(data, context, 3)
    assert {path: (path / "0.npy").stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert np.array_equal(cached[2][f"label/{DISTILLATION}"], views[2][f"label/{DISTILLATION}"])


@pytest.mark.parametrize("augment", ["flip(), random_resized_crop()", "mixup()", "cutmix()"])
def test_new_views_are_predicted_batch_by_batch(set_up_run, trained_run, augment):
    """If everything is trained, a batch has the probabilities of its own images, after mixing too."""
    _, data, _, context = set_up_run(backbone=TEACHER_BACKBONE, augment=augment)
    phase_data = prepare_phase_data({}, Phase(), data, context)
    assert phase_data.train is None or "mix" in augment
    for x, y, w in phase_data.training_batches(0, 1).take(2).as_numpy_iterator():
        assert set(y) == set(w) == {"label/logits", f"label/{DISTILLATION}"}
        assert np.array_equal(w["label/logits"], w[f"label/{DISTILLATION}"])
        if phase_data.train is None:
            assert y[f"label/{DISTILLATION}"] == pytest.approx(predict_with_teacher(trained_run, x), abs=1e-5)
        assert y[f"label/{DISTILLATION}"].sum(-1) == pytest.approx(np.ones(len(x["image"])), abs=1e-5)


def compute_divergence(trained_run, data, network):
    """Return the mean KL divergence of the student from the teacher on the training samples."""
    teacher = Bundle.open(trained_run.workdir / "bundle")
    teacher_data = dataclasses.replace(data, modalities=teacher.modalities)
    teacher_probs = [
        predict_with_teacher(trained_run, x) for x, _, _ in teacher_data.make_batches("train").as_numpy_iterator()
    ]
    student_probs = [
        keras.ops.softmax(network.model(x, training=False)["label/logits"])
        for x, _, _ in data.make_batches("train").as_numpy_iterator()
    ]
    pairs = zip(teacher_probs, map(np.asarray, student_probs), strict=True)
    return float(np.mean(np.concatenate([keras.losses.kl_divergence(p, q) for p, q in pairs])))


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["", "flip()"])
def test_a_student_learns_its_teacher_from_probabilities_alone(set_up_run, trained_run, augment):
    """With alpha 1, a student of another size and network comes closer to the teacher than with labels alone."""
    divergences = {}
    for name, options in {"distilled": {}, "labels": {"teacher": ""}}.items():
        # Many small steps are needed, because the statistics of normalization follow slowly.
        phase = Phase(epochs=40, unfreeze="all", learning_rate=0.01, patience=0)
        student = "convnet(size=20, channels=3, widths=(16, 32, 32))"
        plan, data, network, context = set_up_run(name, student, augment, batch_size=8, finetune=phase, **options)
        initial = compute_divergence(trained_run, data, network)
        fit_phase(network, "finetune", plan.phases["finetune"], data, context)
        divergences[name] = compute_divergence(trained_run, data, network)
        assert divergences[name] < initial
    assert divergences["distilled"] < 0.5 * divergences["labels"]


def test_with_alpha_zero_only_labels_are_learned(set_up_run):
    """The weights equal those of a run without a teacher."""
    weights = []
    for name, options in {"no_teacher": {"teacher": ""}, "alpha_zero": {"distill": DistillOptions(alpha=0.0)}}.items():
        plan, data, network, context = set_up_run(name, finetune=Phase(epochs=2, unfreeze="all"), **options)
        fit_phase(network, "finetune", plan.phases["finetune"], data, context)
        weights.append(network.model.get_weights())
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(*weights, strict=True))


def test_distillation_with_a_frozen_part(set_up_run, trained_run):
    """The trainable part learns from the probabilities of the views whose features are cached."""
    init = str(trained_run.workdir / "bundle")
    phase = Phase(epochs=4, augmented_views=2, learning_rate=0.01, unfreeze="1")
    plan, data, network, context = set_up_run(backbone="default", init=init, finetune=phase, augment="flip(), mixup()")
    assert plan.towers["image"] == check(Run(data=str(trained_run.data), backbone=TEACHER_BACKBONE)).towers["image"]
    trunks, _ = split_model(network, "1")
    phase_data = prepare_phase_data(trunks, phase, data, context)
    assert len(phase_data.train.teacher_targets) == 2
    initial = compute_divergence(trained_run, data, network)
    history = fit_phase(network, "finetune", phase, data, context)
    assert initial < 1e-6
    # Teacher and initial student are equal, so there is little to learn.
    assert compute_divergence(trained_run, data, network) < 0.1
    assert history.epochs == 4


def test_several_teachers_are_averaged(set_up_run, trained_run, tmp_path):
    """The target is the mean of their probabilities; the probabilities of each teacher are cached separately."""
    first = trained_run.workdir / "bundle"
    # This teacher has random weights and more labels than the run.
    other = tower_bundle(tmp_path / "other", STUDENT, labels=("square", "bar", "disc", "star"))
    plan, data, _, context = set_up_run(teacher=f"{first}, {other.path}")
    mean = compute_teacher_probs(data, context, 1)[0][f"label/{DISTILLATION}"]
    by_teacher = []
    for path in (first, other.path):
        *_, single_context = set_up_run(teacher=str(path))
        by_teacher.append(compute_teacher_probs(data, single_context, 1)[0][f"label/{DISTILLATION}"])
    assert mean == pytest.approx((by_teacher[0] + by_teacher[1]) / 2, abs=1e-6)
    assert len(list((plan.workdir / "features").iterdir())) == 2
    # Three of the four labels are used, in the order of the run.
    teacher_data = dataclasses.replace(data, modalities=other.modalities)
    inputs, *_ = next(iter(teacher_data.make_batches("train").as_numpy_iterator()))
    scores = other.load_model("keras").predict(inputs)["label/scores"][:, [1, 2, 0]]
    assert by_teacher[1][: len(scores)] == pytest.approx(scores / scores.sum(-1, keepdims=True), abs=1e-5)


def test_unsuitable_teachers_raise_an_error(trained_run, tmp_path):
    """The error is one line, before anything is written, if the manifest of the teacher shows the problem."""
    path = trained_run.workdir / "bundle"
    text = tower_bundle(tmp_path / "text", "bag_of_embeddings(size=8, dim=8)")
    cases = {
        (f"--teacher={tmp_path}",): "not a bundle",
        (f"--teacher={path},{text.path}",): "Bundle of --teacher has other inputs than this run: text (text)",
        (f"--teacher={path}", "--heads=kind=classify()"): "Bundle of --teacher has no head kind: label (",
        (f"--teacher={path}", "--heads=tag()"): "Head label of --teacher has another kind of task: classify()",
        (f"--teacher={path}", "--distill.alpha=1.5"): "--distill.alpha is out of range",
        (f"--teacher={path}", "--distill.temperature=0"): "--distill.temperature is out of range",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={trained_run.data}", *SMALL_FLAGS)


def test_a_teacher_without_a_label_of_the_data_raises_an_error(trained_run, tmp_path):
    """The error names the label, before anything is trained."""
    data = write_shapes(tmp_path / "shapes", images_per_class=14)
    (data / "disc").rename(data / "circle")
    teacher = f"--teacher={trained_run.workdir / 'bundle'}"
    error = get_error("train", f"--data={data}", *SMALL_FLAGS, teacher, f"--workdir={tmp_path / 'r'}")
    assert f"Bundle of --teacher lacks labels of head label: circle ({trained_run.workdir / 'bundle'})" in error
    assert not (tmp_path / "r" / "tensorboard").exists()


@pytest.mark.slow
def test_a_killed_run_with_a_teacher_resumes(trained_run, tmp_path):
    """The model equals that of a run that was not interrupted; the report names the teacher."""
    flags = (
        *trained_run.flags,
        f"--teacher={trained_run.workdir / 'bundle'}",
        "--exports=keras_file()",
        "--frozen.epochs=0",
        "--finetune.epochs=5",
    )
    reference = run_in_process("train", *flags, f"--workdir={tmp_path / 'reference'}")
    assert reference.returncode == 0, reference.stderr
    assert "distilled from" in (tmp_path / "reference" / "report.html").read_text()
    kill_run(tmp_path / "run", flags, 2)
    resumed = run_in_process("train", *flags, f"--workdir={tmp_path / 'run'}")
    assert resumed.returncode == 0, resumed.stderr
    histories = [
        json.loads((tmp_path / name / "checkpoints" / "finetune" / "history.json").read_text())["metrics"]
        for name in ("reference", "run")
    ]
    assert histories[0] == histories[1]
