"""Validation of the options of a run: errors come before data or weights are read."""

import dataclasses

import numpy as np
import pytest

from tfx_finetune.core.config import MixtureOptions, Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.mixture_weights import compute_mixture_weights
from tfx_finetune.models.build import build_towers
from tfx_finetune.run.plan import check
from tfx_finetune.training.feature_cache import preprocessing_key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ""}, "--data is missing. Write --data=FOLDER, a folder with one sub-folder per class."),
        ({"heads": "classify(dropout=1.5)"}, "dropout of classify() is out of range: 1.5. Expected: 0 to below 1."),
        ({"heads": "a=tag(), b=tag(threshold=2)"}, "threshold of tag() is out of range: 2. Expected: between 0 and 1."),
        (
            {"heads": "file=classify(), b=tag()"},
            "The name of a head is reserved for a field of predictions: file.",
        ),
        ({"heads": "classify(drop=1)"}, "Unknown option of task classify: drop."),
        (
            {"heads": "classify(heads_by='language')"},
            "The option heads_by of a head is set by --heads_by: classify(heads_by='language'). "
            "Say --heads_by=language.",
        ),
        ({"heads": "tag()", "heads_by": "language"}, "--heads_by needs a head that predicts one class per sample"),
        ({"backbone": "modality_mask=convnet()"}, "The name of a tower is reserved for another model input"),
        ({"exports": "tflite(), tflite(inputs='uint8')"}, "--exports writes a file twice"),
        (
            {"exports": "tflite(), tflite(quantize='int8', selective=True)", "compress": "prune(), qat()"},
            "selective=True cannot be combined with qat(), which has fixed the quantization ranges: "
            "tflite(quantize='int8', selective=True). Remove",
        ),
        (
            {"data": "a=folder('x'), tfds('mnist')"},
            "The text is not a component spec: \"a=folder('x'), ",
        ),
        ({"data": "folder('x'), tfds('mnist')"}, "One component is expected: \"folder('x'), tfds('mnist')\"."),
    ],
)
def test_mistakes_are_named(tmp_path, options, message):
    """An error names the invalid value."""
    with pytest.raises(UserError) as error:
        check(dataclasses.replace(Run(data=str(tmp_path)), **options))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("backbone", ["convnet(size=64)", "convnet(64, 3)", "efficientnet_lite3(size=64)"])
def test_the_size_of_the_input_reaches_the_backbone(tmp_path, backbone):
    """The option `size` of the backbone is the one way to set the size of the input."""
    plan = check(Run(data=str(tmp_path), backbone=backbone))
    tower = build_towers(plan.architecture)["image"]
    assert tower.inputs.shape[1:3] == (64, 64)
    assert tower.pretrained_cfg.size == 64


def test_heads_by_sets_the_option_of_an_unnamed_head(tmp_path):
    """With `--heads_by`, a single head without a name gets the option; heads with names stay as they are."""
    plan = check(Run(data=str(tmp_path), heads="classify(dropout=0.1)", heads_by="language"))
    assert {head: str(spec) for head, spec in plan.heads.items()} == {
        "label": "classify(dropout=0.1, heads_by='language')"
    }
    assert plan.heads_by == "language"
    plan = check(Run(data=str(tmp_path), heads="en=classify(), fi=classify()", heads_by="language"))
    assert {head: str(spec) for head, spec in plan.heads.items()} == {"en": "classify()", "fi": "classify()"}


def test_several_sources_have_names(tmp_path):
    """Several sources are named; a path that looks like a named source is a path if it exists."""
    plan = check(Run(data=f"a=folder({str(tmp_path)!r}), b=folder({str(tmp_path)!r})"))
    assert list(plan.sources) == ["a", "b"]
    folder = tmp_path / "a=folder(x)"
    folder.mkdir()
    assert list(check(Run(data=str(folder))).sources) == [""]
    assert list(check(Run(data="a=folder('x')", workdir=str(tmp_path / "run"))).sources) == ["a"]


def test_an_infinite_temperature_gives_equal_weights():
    """Sizes to the power of 1 / temperature are equal at infinity."""
    weights = compute_mixture_weights({"a": 10, "b": 1000}, MixtureOptions(temperature=np.inf))
    assert weights == {"a": 0.5, "b": 0.5}


def test_a_task_template_has_the_column_of_its_head(tmp_path):
    """A template also has `single_label`, which is True if a sample has exactly one class."""
    plan = check(Run(data=str(tmp_path), heads="kind=classify(column='k'), marks=tag()"))
    assert {head: (task.column, task.single_label) for head, task in plan.task_templates.items()} == {
        "kind": ("k", True),
        "marks": ("label", False),
    }


@pytest.mark.parametrize(
    ("unfreeze", "unfrozen"),
    [("5", ["2", "4", "5"]), ("all", ["0.3333", "0.6667", "all"]), ("0.6", ["0.2000", "0.4000", "0.6"])],
)
def test_stages_unfreeze_from_the_top(tmp_path, unfreeze, unfrozen):
    """Each stage is a phase of its own, the stages share the epochs, and the last stage keeps the name of the phase."""
    plan = check(
        Run(data=str(tmp_path), frozen=Phase(), finetune=Phase(epochs=8, unfreezing_stages=3, unfreeze=unfreeze))
    )
    assert list(plan.phases) == ["finetune_1", "finetune_2", "finetune"]
    assert [phase.unfreeze for phase in plan.phases.values()] == unfrozen
    assert [phase.epochs for phase in plan.phases.values()] == [2, 2, 4]


def test_augments_of_batches_are_separate_from_augments_of_samples(tmp_path):
    """Cached features depend only on the augments of samples."""
    plan = check(Run(data=str(tmp_path), augment="flip(), mixup(), random_resized_crop(), cutmix()"))
    assert list(plan.augments) == ["flip()", "random_resized_crop()"]
    assert len(plan.batch_augments) == 2
    assert preprocessing_key(plan, "image")["augment"] == {0: "flip()", 1: "random_resized_crop()"}
