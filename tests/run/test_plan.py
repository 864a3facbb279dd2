"""What a configuration as a whole can have wrong is found before data or weights are touched."""

import dataclasses

import pytest

from tfx_finetune.core.config import ImageOptions, Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.build import build_towers
from tfx_finetune.run.plan import check
from tfx_finetune.training.feature_cache import preprocessing_key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ""}, "no data given; say --data=FOLDER"),
        ({"heads": "classify(dropout=1.5)"}, "dropout is out of range; received: 1.5; allowed: 0 to below 1"),
        ({"heads": "a=tag(), b=tag(threshold=2)"}, "threshold is out of range; received: 2"),
        (
            {"heads": "file=classify(), b=tag()"},
            "a head cannot have this name, which a prediction needs; received: file",
        ),
        ({"heads": "classify(drop=1)"}, "unknown option of task classify; received: drop"),
        ({"towers": "modality_mask=convnet()"}, "a tower cannot have this name"),
        ({"exports": "tflite(), tflite(inputs='uint8')"}, "--exports writes a file twice"),
        (
            {"exports": "tflite(), tflite(quantize='int8', selective=True)", "compress": "prune(), qat()"},
            "qat() leaves no layer to be chosen; received: tflite(quantize='int8', selective=True); leave",
        ),
        (
            {"image": ImageOptions(size=64), "backbone": "convnet(size=32)"},
            "two sizes of the input; received: --image.size=64",
        ),
        (
            {"image": ImageOptions(size=64), "backbone": "convnet(32)"},
            "two sizes of the input; received: --image.size=64",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, options, message):
    """Each with what was received."""
    with pytest.raises(UserError) as error:
        check(dataclasses.replace(Run(data=str(tmp_path)), **options))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("backbone", ["convnet()", "convnet(size=64)", "convnet(64, 3)", "efficientnet_lite3(size=0)"])
def test_the_size_of_the_input_reaches_the_backbone(tmp_path, backbone):
    """`--image.size` is all that has to be said."""
    plan = check(Run(data=str(tmp_path), backbone=backbone, image=ImageOptions(size=64)))
    tower = build_towers(plan.architecture)["image"]
    assert tower.inputs.shape[1:3] == (64, 64)
    assert tower.pretrained_cfg.size == 64


def test_a_draft_of_each_head_says_what_it_reads(tmp_path):
    """Its column, and whether a sample has exactly one class."""
    plan = check(Run(data=str(tmp_path), heads="kind=classify(column='k'), seen=tag()"))
    assert {head: (task.column, task.single_label) for head, task in plan.task_templates.items()} == {
        "kind": ("k", True),
        "seen": ("label", False),
    }


@pytest.mark.parametrize(
    ("unfreeze", "parts"),
    [("5", ["2", "4", "5"]), ("all", ["0.3333", "0.6667", "all"]), ("0.6", ["0.2000", "0.4000", "0.6"])],
)
def test_stages_unfreeze_from_the_top(tmp_path, unfreeze, parts):
    """A phase a stage, which share the epochs; the last one keeps the name."""
    plan = check(
        Run(data=str(tmp_path), frozen=Phase(), finetune=Phase(epochs=8, unfreezing_stages=3, unfreeze=unfreeze))
    )
    assert list(plan.phases) == ["tune_1", "tune_2", "tune"]
    assert [phase.unfreeze for phase in plan.phases.values()] == parts
    assert [phase.epochs for phase in plan.phases.values()] == [2, 2, 4]


def test_mixes_are_told_from_changes_of_single_samples(tmp_path):
    """Kept features depend on the latter alone."""
    plan = check(Run(data=str(tmp_path), augment="flip(), mixup(), random_resized_crop(), cutmix()"))
    assert list(plan.augments) == ["flip()", "random_resized_crop()"]
    assert len(plan.batch_augments) == 2
    assert preprocessing_key(plan, "image")["augment"] == {0: "flip()", 1: "random_resized_crop()"}
