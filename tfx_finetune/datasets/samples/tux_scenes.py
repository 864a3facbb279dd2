"""Tux Paint's stamps on photographs of OpenCV's documentation, of two Debian packages: scenes known to the pixel."""

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
from tfx_finetune.datasets.samples.scene_generator import Scene, SceneGenerator, clear_caches, is_cut_out
from tfx_finetune.datasets.sources.in_memory import InMemorySource, find_images
from tfx_finetune.ops.objects import format_objects
from tfx_finetune.types.components import SOURCES, SPLITS, Source
from tfx_finetune.types.localization import BACKGROUND

CLASSES = ("animals/birds", "animals/mammals", "food/fruit", "plants/flowers", "symbols/money", "vehicles")
# One photograph of each place, without drawings, overlays, and things of the classes above.
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
"""Shares of things and photographs that no training scene has."""
# Of what is drawn with the same options: scenes of another version are made anew.
_VERSION = 1
_QUALITY = 95
_Thing = TypeVar("_Thing", Path, str)


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
    """Scenes with boxes and masks that are exact: Tux Paint's cut-outs pasted on photographs of OpenCV's documentation.

    Stamps and photographs of one split are in no other one, and of a numbered series, as of coins, all are on one side.
    A thing is boxed as far as it is not covered. Scenes are made once and kept in the cache; the packages
    tuxpaint-stamps-default and opencv-doc are used where they are installed, else downloaded there without root.

    Args:
        train, val, test: Scenes of each split; 0 leaves val or test out.
        classes: Folders of the stamps; each is a class, called as its last part.
        side: Of the square scenes, in pixels, 32 or more.
        objects: Fewest and most things in a scene, 0 to 50.
        scale: Range of a thing's longer side as a share of the scene's, within 0 to 1.
        degrees: Most that a thing is turned, in either direction, 0 to 180.
        min_visible: A thing of which a smaller share can be seen, 0 to 1, is a crowd, neither learned nor scored as a
            box; in the mask it stands as what it is.
        seed: Of splits and scenes alike. That of the run has no part in it, so that runs are compared on one data set.

    Raises:
        UserError: An option is out of range, there is no such folder, or it has too few cut-outs.
    """
    counts = {"train": train, "val": val, "test": test}
    if train < 1 or min(val, test, seed) < 0 or side < 32 or not 0 <= degrees <= 180 or not 0 <= min_visible <= 1:
        received = f"{counts}, side={side}, degrees={degrees}, min_visible={min_visible}, seed={seed}"
        allowed = "1 or more of train, a side of 32 or more, degrees of 0 to 180, min_visible of 0 to 1"
        raise UserError("tux_scenes is out of range", got=received, expected=allowed)
    if not (0 <= objects[0] <= objects[1] <= 50 and 0 < scale[0] <= scale[1] <= 1):
        allowed = "0 <= fewest <= most <= 50, and 0 < least <= most <= 1"
        raise UserError("the ranges of tux_scenes are not ranges", got=f"{objects}, {scale}", expected=allowed)
    made = make_generators(classes, side, objects, scale, degrees, min_visible, seed)
    parts = {part: count for part, count in counts.items() if count}
    labels = tuple(_get_class_name(folder) for folder in classes)
    return InMemorySource(
        "tux_scenes", (BACKGROUND, *labels), ("image", "mask"), _load_or_make_columns(made, parts, labels)
    )


def make_generators(
    classes: Sequence[str],
    side: int,
    objects: tuple[int, int],
    scale: tuple[float, float],
    degrees: float,
    min_visible: float,
    seed: int,
) -> dict[str, SceneGenerator]:
    """What makes the scenes of each split; the options are those of `tux_scenes`."""
    stamps, photographs = assets.fetch("tux-stamps"), assets.fetch("opencv-photographs")
    labels = [_get_class_name(folder) for folder in classes]
    if not labels or len(set(labels)) < len(labels) or BACKGROUND in labels:
        raise UserError("classes of tux_scenes need names of their own", got=", ".join(classes) or "none")
    places = _assign_splits({name: name for name in PHOTOGRAPHS}, seed)
    things = {_get_class_name(folder): _find_cut_outs_by_split(stamps, folder, seed) for folder in classes}
    return {
        part: SceneGenerator(
            {label: split[part] for label, split in things.items()},
            # Debian 13 has all but one of them.
            tuple(file for name in PHOTOGRAPHS if places[name] == part and (file := photographs / name).is_file()),
            *(side, objects, scale, degrees, min_visible, (seed, number)),
        )
        for number, part in enumerate(SPLITS)
    }


def make_class_mask(scene: Scene, labels: Sequence[str]) -> np.ndarray:
    """The classes of a scene, uint8 (side, side): 0 is the background, n the nth label."""
    values = np.array([0, *(1 + labels.index(thing.label) for thing in scene.objects)], np.uint8)
    return values[scene.instances]


def _get_class_name(folder: str) -> str:
    return folder.strip("/").rpartition("/")[2]


def _find_cut_outs_by_split(root: Path, folder: str, seed: int) -> dict[str, tuple[Path, ...]]:
    """Files of a class by split."""
    if not folder.strip("/") or not (root / folder).is_dir():
        known = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())
        todo = did_you_mean(folder, known)
        raise UserError("no such folder of stamps", got=folder, expected=progress.shorten_list(known), hint=todo)
    cut = [
        path
        for path in find_images(root / folder)
        if path.suffix == ".png" and "_mirror" not in path.stem and is_cut_out(path)
    ]
    series = {path: _get_series_name(path.relative_to(root)) for path in cut}
    if len(set(series.values())) < len(SPLITS):
        received = f"{folder}: {len(set(series.values()))}"
        raise UserError("too few cut-outs in a folder of stamps", got=received, expected="3 or more")
    sides = _assign_splits(series, seed)
    return {part: tuple(path for path in cut if sides[path] == part) for part in SPLITS}


def _get_series_name(path: Path) -> str:
    """What numbered stamps of a folder have in common: `coins/` of 010.png and 020.png, which differ in the number."""
    return (path.parent / re.sub(r"[-_]?\d+$|^\d+$", "", path.stem)).as_posix()


def _assign_splits(series: Mapping[_Thing, str], seed: int) -> dict[_Thing, str]:
    """The split of each thing: of their series in the order of hashes, those that fit into a share, one at least."""
    members: dict[str, list[_Thing]] = {}
    for thing, name in series.items():
        members.setdefault(name, []).append(thing)
    left = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    sides = dict.fromkeys(series, "train")
    for part, share in _HELD_OUT_FRACTIONS.items():
        room, taken = round(share * len(series)), []
        for name in left:
            if len(members[name]) <= room:
                room -= len(members[name])
                taken.append(name)
        for name in taken or [min(left, key=lambda name: len(members[name]))]:
            sides |= dict.fromkeys(members[name], part)
            left.remove(name)
    return sides


def _load_or_make_columns(
    generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> dict[str, dict[str, list[str]]]:
    """The columns of each part, whose scenes are made where the cache does not have them."""
    folder = files.make_writable_folder(assets.get_cache_dir() / "scenes", "cache") / _compute_cache_key(
        generators, parts, labels
    )
    if not folder.is_dir():
        with files.write_atomically(folder) as draft:
            _write_scenes(draft, generators, parts, labels)
    texts = json.loads((folder / "objects.json").read_text("utf-8"))
    found = {}
    for part, count in parts.items():
        names = [f"{part}/{number:05d}" for number in range(count)]
        paths = {
            "image": [f"{folder / name}.jpg" for name in names],
            "mask": [f"{folder / name}.png" for name in names],
        }
        found[part] = paths | {"objects": texts[part], "file": names}
    return found


def _write_scenes(
    folder: Path, generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> None:
    def one(part: str, number: int) -> str:
        scene, path = generators[part].make_scene(number), folder / part / f"{number:05d}"
        Image.fromarray(scene.image).save(f"{path}.jpg", quality=_QUALITY, subsampling=0)
        Image.fromarray(make_class_mask(scene, labels)).save(f"{path}.png")
        return format_objects(scene.objects)

    texts: dict[str, list[str]] = {}
    with progress.bar("scenes", sum(parts.values())) as advance, ThreadPoolExecutor(hardware.detect().threads) as pool:
        for part, count in parts.items():
            (folder / part).mkdir(parents=True)
            texts[part] = []
            for text in pool.map(one, [part] * count, range(count)):
                texts[part].append(text)
                advance()
    clear_caches()
    (folder / "objects.json").write_text(json.dumps(texts), "utf-8")


def _compute_cache_key(
    generators: Mapping[str, SceneGenerator], parts: Mapping[str, int], labels: tuple[str, ...]
) -> str:
    """What determines the scenes: how they are made, and the content of what they are made of."""
    used = {path for part in parts for path in _list_input_files(generators[part])}
    contents = sorted((str(path.name), files.sha256(path)) for path in used)
    how = [
        [
            part,
            count,
            *(str(value) for name, value in vars(generators[part]).items() if name not in ("things", "photographs")),
        ]
        for part, count in parts.items()
    ]
    sides = [[path.name for path in _list_input_files(generators[part])] for part in parts]
    return hashlib.sha256(json.dumps([_VERSION, labels, how, contents, sides]).encode()).hexdigest()[:16]


def _list_input_files(generator: SceneGenerator) -> list[Path]:
    return [*generator.photographs, *(path for paths in generator.things.values() for path in paths)]
