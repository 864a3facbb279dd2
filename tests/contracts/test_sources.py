"""What holds for every source: one example each, read the way the survey and the pipeline read it."""

import os

import pytest
import tensorflow as tf

from tests.assets import asset
from tests.shapes_dataset import prepare
from tests.small_data import class_folder, idx_folder, table
from tfx_finetune.contracts import SOURCES, SPLITS
from tfx_finetune.core.spec import Spec


def _table(root):
    return Spec("table", (str(table(root, "path,label,split,group\na.png,x,train,1\nb.png,y,test,2\n")),))


def _tux_stamps(root):
    asset("tux-stamps")
    return Spec("tux_stamps")


def _spoken_digits(root):
    for voice in ("menardi", "carlo"):
        asset(f"digits-{voice}")
    return Spec("spoken_digits", (), {"languages": ("it",), "test": "carlo"})


# A source without an example fails `test_every_source_has_an_example`; add one with it.
EXAMPLES = {
    "folder": lambda root: Spec("folder", (str(class_folder(root, cat=3, dog=2)),)),
    "idx": lambda root: Spec("idx", (str(idx_folder(root)),)),
    "spoken_digits": _spoken_digits,
    "table": _table,
    "tfds": lambda root: Spec("tfds", ("shapes:2.0.0",), {"data_dir": str(prepare(root))}),
    "tux_stamps": _tux_stamps,
}


@pytest.fixture(scope="module", params=EXAMPLES)
def source(request, tmp_path_factory):
    return SOURCES.build(EXAMPLES[request.param](tmp_path_factory.mktemp(request.param)))


def samples(source, part):
    return list(source.read(part).as_numpy_iterator())


def test_every_source_has_an_example():
    """Being registered is enough to be tested."""
    assert set(SOURCES) == set(EXAMPLES)


def test_parts_and_sizes(source):
    """Either all samples in one part, or parts that are splits; each as large as it says."""
    assert set(source.sizes) == {"all"} or set(source.sizes) <= set(SPLITS)
    for part, size in source.sizes.items():
        assert len(samples(source, part)) == size > 0


def test_samples_have_the_columns_of_the_contract(source):
    """Scalars of text, but for pixels that came decoded; paths lead to files; labels are those that are listed."""
    for part in source.sizes:
        for sample in samples(source, part):
            assert {"label", "file"} <= set(sample)
            assert all(isinstance(value, bytes) for name, value in sample.items() if name != "image")
            assert sample["file"]
            if "audio" in sample:
                assert tf.io.read_file(sample["audio"]).numpy().startswith(b"RIFF")
            elif isinstance(sample["image"], bytes):
                content = tf.io.read_file(sample["image"]).numpy() if "image" in source.paths else sample["image"]
                assert content.startswith(b"\x89PNG")
            else:
                assert sample["image"].dtype == "uint8"
                assert sample["image"].ndim == 3
            if source.labels:
                assert sample["label"].decode() in source.labels


def test_files_name_samples_uniquely(source):
    """The report lists samples by this name."""
    files = [sample["file"] for part in source.sizes for sample in samples(source, part)]
    assert len(set(files)) == len(files)


def test_the_order_is_always_the_same(source):
    """The table of the survey and the pipeline go by position."""
    for part in source.sizes:
        first, second = ([sample["file"] for sample in samples(source, part)] for _ in range(2))
        assert first == second


def test_name_and_order_of_classes(source):
    """The name may stand in a path; no class twice."""
    assert source.name
    assert os.sep not in source.name
    assert len(set(source.labels)) == len(source.labels)
