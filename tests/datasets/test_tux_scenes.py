"""Scenes whose boxes and masks are known to the pixel."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.helpers.assets import asset
from tests.helpers.small_data import complaint
from tfx_finetune.core import assets
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.samples.scene_generator import SceneGenerator, is_cut_out
from tfx_finetune.datasets.samples.tux_scenes import PHOTOGRAPHS, make_class_mask, make_generators, tux_scenes
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
    asset("tux-stamps")
    asset("opencv-photographs")


@pytest.fixture
def cache(tmp_path):
    """A cache of its own beside the packages of the usual one."""
    (tmp_path / "packages").symlink_to(assets.get_cache_dir() / "packages")
    assets.set_cache_dir(str(tmp_path))
    yield tmp_path
    assets.set_cache_dir("")


def scenes(**options):
    return SOURCES.build(Spec("tux_scenes", (), SIZES | {"side": 80} | options))


def made_by(**options):
    """What makes the scenes of each split, of the source's own defaults."""
    known = {name: option.default for name, option in inspect.signature(tux_scenes).parameters.items()}
    return make_generators(**{name: known[name] for name in inspect.signature(make_generators).parameters} | options)


def rows(source, part):
    return [{key: value.decode() for key, value in row.items()} for row in source.read(part).as_numpy_iterator()]


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_boxes_masks_and_pictures_agree(cache):
    """Each box is the extent of its object's pixels, the mask has its class there, and files are what is made."""
    source, made = scenes(), made_by(side=80)
    assert source.sizes == SIZES
    assert source.labels == ("background", *LABELS)
    assert source.paths == ("image", "mask")
    for part in SIZES:
        for number, row in enumerate(rows(source, part)):
            scene, values = made[part].make_scene(number), pixels(row["mask"])
            assert np.array_equal(values, make_class_mask(scene, LABELS))
            assert np.abs(pixels(row["image"]).astype(int) - scene.image).mean() < 4  # what JPEG loses
            assert np.array_equal(values == 0, scene.instances == 0)
            objects = parse_objects(row["objects"])
            assert len(objects) == scene.instances.max() >= 1
            for place, thing in enumerate(objects, 1):
                own = np.argwhere(scene.instances == place)
                top, left = own.min(0)
                bottom, right = own.max(0) + 1
                assert np.array(thing[1:5]) * 80 == pytest.approx([left, top, right, bottom])
                assert {source.labels[value] for value in values[scene.instances == place]} == {thing.label}


def test_what_is_hardly_seen_is_a_crowd(tmp_path):
    """Bars as wide as the scene and half as high: of 512 pixels each, less than a quarter has to be seen."""
    Image.new("RGBA", (32, 16), "red").save(tmp_path / "bar.png")
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "blue.png")
    studio = SceneGenerator(
        {"bar": (tmp_path / "bar.png",)}, (tmp_path / "blue.png",), 32, (3, 3), (1.0, 1.0), 0.0, 0.25, (0,)
    )
    told = set()
    for number in range(40):
        scene = studio.make_scene(number)
        for place, thing in enumerate(scene.objects, 1):
            told.add(thing.crowd)
            assert thing.crowd == (np.count_nonzero(scene.instances == place) < 128)
        assert (scene.image[scene.instances > 0] == (255, 0, 0)).all()
        assert (scene.image[scene.instances == 0][:, 0] == 0).all()
    assert told == {True, False}


def test_no_split_knows_what_another_one_shows():
    """Neither stamps nor photographs are shared, and every class is in each split."""
    made = made_by()
    photographs = [photograph for studio in made.values() for photograph in studio.photographs]
    there = [name for name in PHOTOGRAPHS if (asset("opencv-photographs") / name).is_file()]
    assert len(photographs) == len(set(photographs)) == len(there)
    assert set(PHOTOGRAPHS) - set(there) <= {"opencv4/html/4_barcodes.jpg"}  # which Debian 13 lacks
    for label in LABELS:
        shown = {part: studio.things[label] for part, studio in made.items()}
        files = [file for part in shown.values() for file in part]
        assert len(files) == len(set(files)) >= 25
        assert not any("_mirror" in file.name for file in files)
        assert 0.2 < len(shown["test"]) / len(files) < 0.3
        assert len(shown["train"]) > len(shown["test"]) > len(shown["val"]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_series_is_on_one_side(seed):
    """Coins of 10, 20 and 50 cents differ in the number: to have learned one is to know the others."""
    for label, prefix, count in (("money", "euro/coins/0", 6), ("money", "japanese/yen", 6), ("flowers", "flower", 10)):
        sides = [
            part
            for part, studio in made_by(seed=seed).items()
            for file in studio.things[label]
            if f"/{prefix}" in str(file) and file.stem[-1].isdigit()
        ]
        assert len(sides) == count
        assert len(set(sides)) == 1


def test_scenes_are_the_same_and_are_found_again(cache):
    """Two caches get the same bytes; nothing is made twice; another seed makes other scenes of another split."""
    for row in rows(scenes(), "train"):
        assert Path(row["image"]).is_relative_to(cache)
    (folder,) = (cache / "scenes").iterdir()
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(first) == 2 * sum(SIZES.values()) + 1
    changed = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = scenes()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == changed
    folder.rename(cache / "elsewhere")
    scenes()
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    other = scenes(seed=1)
    assert rows(other, "test")[0]["objects"] != rows(again, "test")[0]["objects"]
    assert set(made_by(seed=1)["test"].photographs) != set(made_by()["test"].photographs)
    assert json.loads((folder / "objects.json").read_text())["val"] == [row["objects"] for row in rows(again, "val")]


def test_the_scenes_that_are_measured():
    """What benchmarks report belongs to these; whoever changes them raises `_VERSION` of tux_scenes."""
    objects = [
        (thing.label, *(round(320 * share) for share in thing[1:5]), thing.crowd)
        for thing in made_by()["test"].make_scene(1).objects
    ]
    assert objects == GOLDEN


def test_fewer_scenes_are_the_first_of_more(cache):
    """A scene depends on its number, not on how many there are."""
    assert [row["objects"] for row in rows(scenes(train=2), "train")] == [
        row["objects"] for row in rows(scenes(), "train")[:2]
    ]
    assert scenes(val=0, test=0).sizes == {"train": 6}


def test_outlines(tmp_path):
    """A thing has an outline: pictures in full, specks and glass have none."""
    drawn = {}
    for name, mode in (("disc", 255), ("glass", 100)):
        drawn[name] = Image.new("RGBA", (60, 60))
        ImageDraw.Draw(drawn[name]).ellipse((5, 5, 50, 50), fill=(255, 0, 0, mode))
    drawn["full"] = Image.new("RGB", (60, 60), "red")
    drawn["nothing"] = Image.new("RGBA", (60, 60))
    drawn["specks"] = Image.new("RGBA", (60, 60))
    for corner in ((0, 0), (59, 59), (0, 59)):
        drawn["specks"].putpixel(corner, (0, 0, 0, 255))
    for name, picture in drawn.items():
        picture.save(tmp_path / f"{name}.png")
    assert [name for name in drawn if is_cut_out(tmp_path / f"{name}.png")] == ["disc"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": 0}, "tux_scenes is out of range; received: {'train': 0"),
        ({"min_visible": 1.5}, "tux_scenes is out of range; "),
        ({"objects": (4, 2)}, "the ranges of tux_scenes are not ranges; received: (4, 2), (0.15, 0.6)"),
        ({"scale": (0.5, 2.0)}, "the ranges of tux_scenes are not ranges"),
        ({"classes": ("vehicle",)}, "no such folder of stamps; received: vehicle; allowed: animals, "),
        ({"classes": ()}, "classes of tux_scenes need names of their own; received: none"),
        ({"classes": ("animals/cartoon", "town/cartoon")}, "classes of tux_scenes need names of their own"),
        ({"classes": ("animals/lizards",)}, "too few cut-outs in a folder of stamps; received: animals/lizards: 1"),
    ],
)
def test_bad_options(options, said):
    """Each is told before anything is made."""
    assert complaint(lambda: scenes(**options)).startswith(said)
