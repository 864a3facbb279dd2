"""Generated scenes with exact boxes and masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import complaint
from tfx_finetune.core import assets
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.samples.scene_generator import SceneGenerator, SceneOptions, is_cut_out
from tfx_finetune.datasets.samples.tux_scenes import CLASSES, PHOTOGRAPHS, make_class_mask, make_generators
from tfx_finetune.ops.objects import parse_objects
from tfx_finetune.types.components import SOURCES

SIZES = {"train": 6, "val": 2, "test": 4}
GOLDEN = [
    ("flowers", 63, 117, 174, 184, False),
    ("money", 202, 133, 258, 190, False),
    ("fruit", 204, 259, 310, 312, False),
    ("flowers", 43, 158, 221, 317, False),
]
LABELS = ("birds", "mammals", "fruit", "flowers", "money", "vehicles")


@pytest.fixture(autouse=True)
def packages():
    fetch_asset("tux-stamps")
    fetch_asset("opencv-photographs")


@pytest.fixture
def cache(tmp_path):
    """Use a separate cache with the packages of the default cache."""
    (tmp_path / "packages").symlink_to(assets.get_cache_dir() / "packages")
    assets.set_cache_dir(str(tmp_path))
    yield tmp_path
    assets.set_cache_dir("")


def scenes(**options):
    return SOURCES.build(Spec("tux_scenes", (), SIZES | {"side": 80} | options))


def generators(seed=0, **options):
    """Make the generator of each split with the default options of the source."""
    defaults = SOURCES.resolve_options(Spec("tux_scenes"))
    values = {name: defaults[name] for name in SceneOptions._fields} | options
    return make_generators(CLASSES, SceneOptions(**values), seed)


def rows(source, part):
    return [{key: value.decode() for key, value in row.items()} for row in source.read(part).as_numpy_iterator()]


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_boxes_masks_and_images_agree(cache):
    """Each box is the bounding box of its object, the mask has its class there, and files have the scenes."""
    source, generator_of_part = scenes(), generators(side=80)
    assert source.sizes == SIZES
    assert source.labels == ("background", *LABELS)
    assert source.paths == ("image", "mask")
    for part in SIZES:
        for number, row in enumerate(rows(source, part)):
            scene, values = generator_of_part[part].make_scene(number), pixels(row["mask"])
            assert np.array_equal(values, make_class_mask(scene, LABELS))
            assert np.abs(pixels(row["image"]).astype(int) - scene.image).mean() < 4  # the loss of JPEG
            assert np.array_equal(values == 0, scene.instances == 0)
            objects = parse_objects(row["objects"])
            assert len(objects) == scene.instances.max() >= 1
            for instance, item in enumerate(objects, 1):
                points = np.argwhere(scene.instances == instance)
                top, left = points.min(0)
                bottom, right = points.max(0) + 1
                assert np.array(item[1:5]) * 80 == pytest.approx([left, top, right, bottom])
                assert {source.labels[value] for value in values[scene.instances == instance]} == {item.label}


def test_hardly_visible_objects_are_crowds(tmp_path):
    """Objects with less than a quarter of the 512 pixels of their bar are crowds."""
    Image.new("RGBA", (32, 16), "red").save(tmp_path / "bar.png")
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "blue.png")
    options = SceneOptions(32, (3, 3), (1.0, 1.0), 0.0, 0.25)
    generator = SceneGenerator({"bar": (tmp_path / "bar.png",)}, (tmp_path / "blue.png",), options, (0,))
    crowd_values = set()
    for number in range(40):
        scene = generator.make_scene(number)
        for instance, item in enumerate(scene.objects, 1):
            crowd_values.add(item.crowd)
            assert item.crowd == (np.count_nonzero(scene.instances == instance) < 128)
        assert (scene.image[scene.instances > 0] == (255, 0, 0)).all()
        assert (scene.image[scene.instances == 0][:, 0] == 0).all()
    assert crowd_values == {True, False}


def test_splits_share_no_files():
    """Splits share neither stamps nor photographs, and every class is in each split."""
    generator_of_part = generators()
    photographs = [file for generator in generator_of_part.values() for file in generator.photographs]
    existing = [name for name in PHOTOGRAPHS if (fetch_asset("opencv-photographs") / name).is_file()]
    assert len(photographs) == len(set(photographs)) == len(existing)
    assert set(PHOTOGRAPHS) - set(existing) <= {"opencv4/html/4_barcodes.jpg"}  # which Debian 13 lacks
    for label in LABELS:
        cut_outs = {part: generator.cut_outs[label] for part, generator in generator_of_part.items()}
        files = [file for part_files in cut_outs.values() for file in part_files]
        assert len(files) == len(set(files)) >= 25
        assert not any("_mirror" in file.name for file in files)
        assert 0.2 < len(cut_outs["test"]) / len(files) < 0.3
        assert len(cut_outs["train"]) > len(cut_outs["test"]) > len(cut_outs["val"]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_series_stays_in_one_split(seed):
    """Coins of 10, 20 and 50 cents differ only in the number."""
    for label, prefix, count in (("money", "euro/coins/0", 6), ("money", "japanese/yen", 6), ("flowers", "flower", 10)):
        parts = [
            part
            for part, generator in generators(seed=seed).items()
            for file in generator.cut_outs[label]
            if f"/{prefix}" in str(file) and file.stem[-1].isdigit()
        ]
        assert len(parts) == count
        assert len(set(parts)) == 1


def test_scenes_are_reproducible_and_cached(cache):
    """Two caches get the same bytes; cached scenes are not made again; another seed gives other scenes and splits."""
    for row in rows(scenes(), "train"):
        assert Path(row["image"]).is_relative_to(cache)
    (folder,) = (cache / "scenes").iterdir()
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(first) == 2 * sum(SIZES.values()) + 1
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = scenes()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    folder.rename(cache / "elsewhere")
    scenes()
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    other = scenes(seed=1)
    assert rows(other, "test")[0]["objects"] != rows(again, "test")[0]["objects"]
    assert set(generators(seed=1)["test"].photographs) != set(generators()["test"].photographs)
    assert json.loads((folder / "objects.json").read_text())["val"] == [row["objects"] for row in rows(again, "val")]


def test_the_scenes_that_are_measured():
    """Benchmarks measure these scenes; a change needs another `_VERSION` of tux_scenes."""
    objects = [
        (item.label, *(round(320 * edge) for edge in item[1:5]), item.crowd)
        for item in generators()["test"].make_scene(1).objects
    ]
    assert objects == GOLDEN


def test_scenes_do_not_depend_on_their_count(cache):
    """A scene depends on its number only."""
    assert [row["objects"] for row in rows(scenes(train=2), "train")] == [
        row["objects"] for row in rows(scenes(), "train")[:2]
    ]
    assert scenes(val=0, test=0).sizes == {"train": 6}


def test_cut_outs(tmp_path):
    """Full images, scattered pixels and translucent images are not cut out."""
    images = {}
    for name, alpha in (("disc", 255), ("translucent", 100)):
        images[name] = Image.new("RGBA", (60, 60))
        ImageDraw.Draw(images[name]).ellipse((5, 5, 50, 50), fill=(255, 0, 0, alpha))
    images["full"] = Image.new("RGB", (60, 60), "red")
    images["transparent"] = Image.new("RGBA", (60, 60))
    images["specks"] = Image.new("RGBA", (60, 60))
    for corner in ((0, 0), (59, 59), (0, 59)):
        images["specks"].putpixel(corner, (0, 0, 0, 255))
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    assert [name for name in images if is_cut_out(tmp_path / f"{name}.png")] == ["disc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "An option of tux_scenes() is out of range: {'train': 0"),
        ({"min_visible": 1.5}, "An option of tux_scenes() is out of range: "),
        ({"objects": (4, 2)}, "objects or scale of tux_scenes() is not a range: (4, 2), (0.15, 0.6)."),
        ({"scale": (0.5, 2.0)}, "objects or scale of tux_scenes() is not a range: (1, 6), (0.5, 2.0)."),
        ({"classes": ("vehicle",)}, "tux_scenes() has no such folder of stamps: vehicle. Expected: animals, "),
        ({"classes": ()}, "classes of tux_scenes() are not unique: none. "),
        (
            {"classes": ("animals/cartoon", "town/cartoon")},
            "classes of tux_scenes() are not unique: animals/cartoon, town/cartoon. ",
        ),
        ({"classes": ("animals/lizards",)}, "A folder of stamps has too few cut-outs: animals/lizards: 1. "),
    ],
)
def test_invalid_options(options, message):
    """Invalid options are refused before scenes are made."""
    assert complaint(lambda: scenes(**options)).startswith(message)
