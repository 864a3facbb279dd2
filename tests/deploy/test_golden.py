"""Golden samples: their selection and files."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.small_data import class_folder, picture
from tests.helpers.small_model import small
from tfx_finetune.datasets.labeled import load_labeled_data
from tfx_finetune.deploy import golden
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.tasks.classify import classify
from tfx_finetune.types.task import ClassLabels


@pytest.fixture(scope="module")
def model():
    return small({"kind": "classify()"})


def test_golden_samples_are_spread_over_the_test_split(model, tmp_path):
    """Eight of twenty samples are picked, from the first to the last, with the outputs of the model."""
    data = class_folder(tmp_path / "data", a=12, b=8)
    task = classify(ClassLabels(("a", "b"), (1, 1), 2))
    data = load_labeled_data(str(data), {"image": model.modality}, {"kind": task}, "", 0.0)
    samples = golden.pick_samples(data, model.servable, make_predict_fn(model.servable.model))
    assert len(samples.raw) == golden.NUM_SAMPLES == 8
    files = sorted((tmp_path / "data").rglob("*.png"))
    indices = [files.index(next(path for path in files if path.read_bytes() == raw["image"])) for raw in samples.raw]
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] == 19
    assert samples.inputs["image"].shape == (8, 16, 16, 3)
    pixels = model.modality.prepare(model.modality.decode(tf.constant(samples.raw[0]["image"])))
    assert np.array_equal(samples.inputs["image"][0], pixels)
    answers = model.servable.model({"image": samples.inputs["image"]}, training=False)
    np.testing.assert_allclose(samples.outputs["kind/scores"], answers["kind/scores"], atol=1e-6)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp"])
def test_golden_samples_keep_their_file_type(ending, model, tmp_path):
    """The file extension of a sample is that of its image format."""
    raw = picture(tmp_path / f"a.{ending}").read_bytes()
    record = golden.write_golden(dataclasses.replace(model.golden, raw=[{"image": raw}]), tmp_path / "golden")
    assert record[0]["files"] == {"image": f"0.image.{ending}"}
    assert (tmp_path / "golden" / f"0.image.{ending}").read_bytes() == raw
