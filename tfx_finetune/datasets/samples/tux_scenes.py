"""Sample data: scenes of Tux Paint's stamps on photographs of OpenCV's documentation, from two Debian packages."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from tfx_finetune.core import assets, files, hardware, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.samples.scene_generator import (
    Scene,
    SceneGenerator,
    SceneOptions,
    clear_caches,
    is_cut_out,
)
from tfx_finetune.datasets.sources.data_files import find_images
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.ops.objects import format_objects
from tfx_finetune.types.components import SOURCES, SPLITS, Source
from tfx_finetune.types.localization import BACKGROUND

CLASSES = ("animals/birds", "animals/mammals", "food/fruit", "plants/flowers", "symbols/money", "vehicles")
# One photograph of each location, without drawings, overlays and objects of the classes above.
PHOTOGRAPHS = (
    "examples/alphamat/input_images/plant.jpg",
    *(f"examples/data/{name}" for name in ("aero1.jpg", "basketball1.png", "board.jpg", "box_in_scene.png")),
    *(f"examples/data/{name}" for name in ("building.jpg", "ela_original.jpg", "left.jpg", "leuvenA.jpg")),
    *(f"examples/data/{name}" for name in ("messi5.jpg", "sudoku.png")),
    *(f"examples/hfs/data/{name}" for name in ("001.jpg", "002.jpg")),
    "examples/reg/home.png",
    *(f"examples/text/scenetext{name}.jpg" for name in ("02", "04")),
    *(f"examples/text/scenetext_segmented_word{name}.jpg" for name in ("03", "04", "05")),
    *(f"opencv4/html/{name}" for name in ("230501201_1.jpg", "4_barcodes.jpg", "choriginal.jpg", "clahe_2.jpg")),
    *(f"opencv4/html/{name}" for name in ("Hough_Lines_Tutorial_Original_Image.jpg", "detect_test1.jpg")),
    *(f"opencv4/html/{name}" for name in ("fileListImageUnDist.jpg", "fusion.png", "fusion_mertens.jpg")),
    *(f"opencv4/html/{name}" for name in ("gst_input.jpg", "handSrc.jpg", "pattern_img.jpg")),
    *(f"opencv4/html/{name}" for name in ("retina_TreeHdr_small.jpg", "singlemarkersoriginal.jpg")),
    "opencv4/html/studentsSample_input.jpg",
)
_HELD_OUT_FRACTIONS = {"test": 0.25, "val": 0.15}
"""Fractions of the stamps and photographs that are held out from the training split."""
# Raise this if the same options give other scenes, so that cached scenes are not used.
_VERSION = 1
_QUALITY = 95
_Item = TypeVar("_Item", Path, str)


@SOURCES.register
def tux_scenes(
    train: int = 1500,
    val: int = 200,
    test: int = 400,
    classes: tuple[str, ...] = CLASSES,
    side: int = 320,
    objects: tuple[int, int] = (1, 6),
    scale: tuple[float, float] = (0.15, 0.6),
    degrees: float = 30.0,
    min_visible: float = 0.25,
    seed: int = 0,
) -> Source:
    """Generate scenes with exact boxes and masks: Tux Paint's stamps on photographs of OpenCV's documentation.

    No stamp or photograph is in two splits; a numbered series, such as coins, stays in one split. A box contains the
    visible part of an object. Scenes are generated once, into the cache. The packages tuxpaint-stamps-default and
    opencv-doc are used if they are installed, else downloaded into the cache without root.

    Args:
        train, val, test: int >= 0 (train: >= 1). Number of scenes of each split. Defaults 1500, 200, 400.
        classes: Folders of stamps. Each is a class, named by the last part of the folder. Default: six folders.
        side: int >= 32. Side of the square scenes in pixels. Default 320.
        objects: Minimum and maximum number of objects in a scene, 0 to 50. Default (1, 6).
        scale: Range of the longer side of an object as a fraction of the side of the scene, 0 to 1. Default
            (0.15, 0.6).
        degrees: float, 0 to 180. Maximum rotation of an object in either direction. Default 30.
        min_visible: float, 0 to 1. An object with a smaller visible fraction is a crowd, whose box is neither trained
            nor scored; the mask still contains it. Default 0.25.
        seed: int >= 0. Seed of splits and scenes. It is independent of the seed of the run, so that runs can be
            compared on the same data. Default 0.

    Raises:
        UserError: If an option is out of range, a folder does not exist, or a folder has too few cut-outs.
    """
    counts = {"train": train, "val": val, "test": test}
    if train < 1 or min(val, test, seed) < 0 or side < 32 or not 0 <= degrees <= 180 or not 0 <= min_visible <= 1:
        got = f"{counts}, side={side}, degrees={degrees}, min_visible={min_visible}, seed={seed}"
        expected = "train of 1 or more, a side of 32 or more, degrees of 0 to 180, min_visible of 0 to 1"
        raise UserError("An option of tux_scenes() is out of range", got=got, expected=expected)
    if not (0 <= objects[0] <= objects[1] <= 50 and 0 < scale[0] <= scale[1] <= 1):
        expected = "0 <= minimum <= maximum <= 50, and 0 < minimum <= maximum <= 1"
        raise UserError("objects or scale of tux_scenes() is not a range", got=f"{objects}, {scale}", expected=expected)
    generators = make_generators(classes, SceneOptions(side, objects, scale, degrees, min_visible), seed)
    parts = {part: count for part, count in counts.items() if count}
    labels = tuple(_get_class_name(folder) for folder in classes)
    columns = _load_or_make_columns(generators, parts, labels)
    return InMemorySource("tux_scenes", (BACKGROUND, *labels), ("image", "mask"), columns)


def make_generators(classes: Sequence[str], options: SceneOptions, seed: int) -> dict[str, SceneGenerator]:
    """Make the scene generator of each split.

    Args:
        classes: Folders of stamps; see `tux_scenes`.
        options: Options of the scenes.
        seed: int >= 0. Seed of splits and scenes.

    Raises:
        UserError: If a folder does not exist, has too few cut-outs, or two folders have the same class name.
    """
    stamps, photographs = assets.fetch("tux-stamps"), assets.fetch("opencv-photographs")
    labels = [_get_class_name(folder) for folder in classes]
    if not labels or len(set(labels)) < len(labels) or BACKGROUND in labels:
        expected = "folders with different last parts"
        raise UserError("classes of tux_scenes() are not unique", got=", ".join(classes) or "none", expected=expected)
    photograph_splits = _assign_splits({name: name for name in PHOTOGRAPHS}, seed)
    cut_outs = {_get_class_name(folder): _find_cut_outs_by_split(stamps, folder, seed) for folder in classes}
    generators = {}
    for index, part in enumerate(SPLITS):
        names = [name for name in PHOTOGRAPHS if photograph_splits[name] == part]
        # One of the photographs is missing in Debian 13.
        files = tuple(file for name in names if (file := photographs / name).is_file())
        class_files = {label: files_by_split[part] for label, files_by_split in cut_outs.items()}
        generators[part] = SceneGenerator(class_files, files, options, (seed, index))
    return generators


def make_class_mask(scene: Scene, labels: Sequence[str]) -> np.ndarray:
    """Return the class mask of a scene, uint8 (side, side): 0 for the background, n for the nth label."""
    values = np.array([0, *(1 + labels.index(item.label) for item in scene.objects)], np.uint8)
    return values[scene.instances]


def _get_class_name(folder: str) -> str:
    return folder.strip("/").rpartition("/")[2]


def _find_cut_outs_by_split(root: Path, folder: str, seed: int) -> dict[str, tuple[Path, ...]]:
    """Return the cut-outs of a class by split."""
    if not folder.strip("/") or not (root / folder).is_dir():
        folders = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())
        expected, hint = progress.shorten_list(folders), did_you_mean(folder, folders)
        raise UserError("tux_scenes() has no such folder of stamps", got=folder, expected=expected, hint=hint)
    stamps = [path for path in find_images(root / folder) if path.suffix == ".png" and "_mirror" not in path.stem]
    cut_outs = [path for path in stamps if is_cut_out(path)]
    series = {path: _get_series_name(path.relative_to(root)) for path in cut_outs}
    if (count := len(set(series.values()))) < len(SPLITS):
        got = f"{folder}: {count}"
        raise UserError("A folder of stamps has too few cut-outs", got=got, expected=f"{len(SPLITS)} or more")
    split_of_path = _assign_splits(series, seed)
    return {part: tuple(path for path in cut_outs if split_of_path[path] == part) for part in SPLITS}


def _get_series_name(path: Path) -> str:
    """Return the path of a stamp without its number, which all stamps of a series share: `coins/` for coins/010.png."""
    return (path.parent / re.sub(r"[-_]?\d+$|^\d+$", "", path.stem)).as_posix()


def _assign_splits(series: Mapping[_Item, str], seed: int) -> dict[_Item, str]:
    """Assign a split to each item; all items of a series get the same one.

    Series are taken in the order of their hashes while they fit into the fraction of a held-out split. Every held-out
    split gets at least one series.
    """
    members: dict[str, list[_Item]] = {}
    for item, name in series.items():
        members.setdefault(name, []).append(item)
    remaining = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    splits = dict.fromkeys(series, "train")
    for part, fraction in _HELD_OUT_FRACTIONS.items():
        capacity, names = round(fraction * len(series)), []
        for name in remaining:
            if len(members[name]) <= capacity:
                capacity -= len(members[name])
                names.append(name)
        for name in names or [min(remaining, key=lambda name: len(members[name]))]:
            splits |= dict.fromkeys(members[name], part)
            remaining.remove(name)
    return splits


def _load_or_make_columns(
    generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> dict[str, dict[str, list[str]]]:
    """Return the columns of each part; generate the scenes if they are not in the cache."""
    cache = files.make_writable_folder(assets.get_cache_dir() / "scenes", "cache")
    folder = cache / _compute_cache_key(generators, parts, labels)
    if not folder.is_dir():
        with files.write_atomically(folder) as draft:
            _write_scenes(draft, generators, parts, labels)
    objects = json.loads((folder / "objects.json").read_text("utf-8"))
    columns = {}
    for part, count in parts.items():
        names = [f"{part}/{number:05d}" for number in range(count)]
        paths = {
            "image": [f"{folder / name}.jpg" for name in names],
            "mask": [f"{folder / name}.png" for name in names],
        }
        columns[part] = paths | {"objects": objects[part], "file": names}
    return columns


def _write_scenes(
    folder: Path, generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> None:
    def write_scene(part: str, number: int) -> str:
        scene, path = generators[part].make_scene(number), folder / part / f"{number:05d}"
        Image.fromarray(scene.image).save(f"{path}.jpg", quality=_QUALITY, subsampling=0)
        Image.fromarray(make_class_mask(scene, labels)).save(f"{path}.png")
        return format_objects(scene.objects)

    objects: dict[str, list[str]] = {}
    with progress.bar("scenes", sum(parts.values())) as advance, ThreadPoolExecutor(hardware.detect().threads) as pool:
        for part, count in parts.items():
            (folder / part).mkdir(parents=True)
            objects[part] = []
            for text in pool.map(write_scene, [part] * count, range(count)):
                objects[part].append(text)
                advance()
    clear_caches()
    (folder / "objects.json").write_text(json.dumps(objects), "utf-8")


def _compute_cache_key(
    generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> str:
    """Hash everything that determines the scenes: options, and names and contents of the input files."""
    paths = {path for part in parts for path in _list_input_files(generators[part])}
    contents = sorted((str(path.name), files.sha256(path)) for path in paths)
    options = [
        [part, count, *map(str, (*generators[part].options, generators[part].seed))] for part, count in parts.items()
    ]
    names = [[path.name for path in _list_input_files(generators[part])] for part in parts]
    return hashlib.sha256(json.dumps([_VERSION, labels, options, contents, names]).encode()).hexdigest()[:16]


def _list_input_files(generator: SceneGenerator) -> list[Path]:
    return [*generator.photographs, *(path for paths in generator.cut_outs.values() for path in paths)]
