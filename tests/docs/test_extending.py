"""The examples of docs/how-to/add-a-component.md work as plug-ins: they are listed, trained with and read."""

import csv
import functools
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import SHAPE_NAMES, get_error, run_command, write_shapes
from tfx_finetune.core.config import Run
from tfx_finetune.run.plan import check
from tfx_finetune.training.feature_cache import preprocessing_key
from tfx_finetune.types.components import REGISTRIES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "how-to" / "add-a-component.md").read_text(encoding="utf-8")
EXAMPLES = {name: code for code, name in re.findall(r"```python\n(# (\w+)\.py\n.*?)```", PAGE, re.DOTALL)}
QUICK = ("--frozen.epochs=1", "--nocache.enabled")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with the examples as files."""
    home = tmp_path_factory.mktemp("home")
    for name, code in EXAMPLES.items():
        (home / f"{name}.py").write_text(code, encoding="utf-8")
    return home


def run(home, name, *arguments):
    """Run a command that finds the examples, check its exit status and return its output."""
    process = run_command(name, *arguments, PYTHONPATH=f"{home}:.")
    assert process.returncode == 0, process.stderr
    return process


def test_every_example_is_listed(home):
    """The page has an example of every kind of component, and no name of the package is taken."""
    output = run(home, "inspect", "--list", f"--plugins={','.join(EXAMPLES)}").stdout
    kinds = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", output, re.MULTILINE))
    assert {registry.kind for registry in REGISTRIES} <= set(kinds)
    several = {"modality": {"series"}, "backbone": {"patches", "series_net"}}
    for registry in REGISTRIES:
        names = set(re.findall(r"^  (\w+)\(", kinds[registry.kind], re.MULTILINE))
        examples = names - set(registry)
        assert len(examples) == 1 or examples == several[registry.kind], registry.kind
        assert examples <= {*EXAMPLES, "series_net"}
        assert names == set(registry) | examples


@pytest.mark.slow
def test_image_components(home):
    """A run uses source, task, backbone, augment, adapter, compression and export; another process reads the bundle."""
    write_shapes(home / "shapes", images_per_class=20)
    with zipfile.ZipFile(home / "photos.zip", "w") as archive:
        for path in sorted((home / "shapes").rglob("*.*")):
            archive.write(path, path.relative_to(home))
    names = "zipped, graded, patches, invert, pointwise, clip, archived"
    flags = [
        f"--data=zipped({str(home / 'photos.zip')!r})",
        "--heads=graded()",
        "--backbone=patches(size=24, dim=16)",
        "--augment=invert(), flip()",
        "--finetune.epochs=1",
        "--finetune.adapter=pointwise()",
        "--compress=clip()",
        "--exports=keras_file(), archived(), tflite(quantize='int8')",
    ]
    log = run(home, "train", f"--plugins={names}", *flags, *QUICK, f"--workdir={home / 'run'}").stderr
    assert re.search("^clip .* epoch 1: loss", log, re.MULTILINE)
    bundle, image = home / "run" / "bundle", home / "shapes" / "disc" / "000.png"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["plugins"] == names
    assert manifest["verified"] == {"keras": True, "archived": True, "tflite_int8": True}
    assert 0 <= json.loads((bundle / "scores.json").read_text())["test"]["label/closeness"] <= 1
    arguments = [f"--bundle={bundle}", "--format=archived", image]
    prediction = json.loads(run(home, "predict", "--plugins=graded, archived", *arguments).stdout)
    assert prediction["label"] in SHAPE_NAMES
    # Without a plug-in, the error names it.
    error = get_error("predict", *arguments)
    assert re.search(rf"The bundle needs the export of a plug-in: archived\. Say --plugins={names}", error)
    run_with_examples = functools.partial(run_command, PYTHONPATH=f"{home}:.")
    error = get_error("predict", "--plugins=archived", *arguments, run=run_with_examples)
    assert "The bundle needs the task of a plug-in: graded" in error


@pytest.mark.slow
def test_an_export_is_added_to_a_finished_run(home, trained_run, tmp_path):
    """The bundle and run.cfg then name its plug-in, once."""
    shutil.copytree(trained_run.workdir, tmp_path / "run")
    bundle = tmp_path / "run" / "bundle"
    for _ in range(2):
        run(home, "export", f"--bundle={bundle}", "--plugins=archived", "--exports=archived()")
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["plugins"] == "archived"
        assert manifest["verified"] == {"archived": True}
        assert "--plugins=archived\n" in (tmp_path / "run" / "run.cfg").read_text()


@pytest.mark.slow
def test_modality_fusion_and_objective(home):
    """A run uses a modality with its backbone, a fusion and an objective; a sample may lack the image."""
    rng = np.random.default_rng(0)
    with (home / "machines.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "series", "label", "source"])
        for row, path in enumerate(sorted(write_shapes(home / "things", images_per_class=20).rglob("*.*"))):
            numbers = " ".join(f"{number:.2f}" for number in rng.normal(SHAPE_NAMES.index(path.parent.name), 0.1, 10))
            writer.writerow([path.relative_to(home), numbers if row % 5 else "", path.parent.name, "ab"[row % 2]])
    flags = [
        f"--data={home / 'machines.csv'}",
        "--plugins=series, product, means",
        "--backbone=image=convnet(size=16, channels=3, widths=(4, 8)), series=series_net()",
        "--fusion=product(dim=16)",
        "--auxiliary_losses=means()",
        "--finetune.epochs=0",
        "--exports=keras_file(), saved_model(), tflite()",
    ]
    training = ["--frozen.epochs=12", "--batch_size=8", "--nocache.enabled", f"--workdir={home / 'series'}"]
    run(home, "train", *flags, *training)
    bundle = home / "series" / "bundle"
    assert set(json.loads((bundle / "manifest.json").read_text())["verified"].values()) == {True}
    samples = [json.dumps({"series": " ".join(["2.0"] * 10)}), json.dumps({"series": "0 0"})]
    lines = run(home, "predict", "--plugins=series", f"--bundle={bundle}", "--format=saved_model", *samples).stdout
    first, second = map(json.loads, lines.splitlines())
    assert first["scores"] != second["scores"]
    assert "The bundle needs the modality of a plug-in: series" in get_error("predict", f"--bundle={bundle}", *samples)


@pytest.mark.slow
def test_neck(home):
    """A run uses a neck for segmentation."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (home / "streets" / kind).mkdir(parents=True)
    for number in range(24):
        pixels, mask = rng.integers(0, 100, (32, 32, 3)).astype(np.uint8), np.zeros((32, 32), np.uint8)
        left, top = rng.integers(0, 16, 2)
        pixels[top : top + 12, left : left + 12] += 120
        mask[top : top + 12, left : left + 12] = 1
        Image.fromarray(pixels).save(home / "streets" / "images" / f"{number}.png")
        Image.fromarray(mask).save(home / "streets" / "masks" / f"{number}.png")
    flags = [
        f"--data={home / 'streets'}",
        "--plugins=apart",
        "--heads=segment(neck=apart(dim=8))",
        f"--backbone=convnet(size=64, channels=3, widths={(4,) * 6})",
        "--finetune.epochs=0",
        "--exports=keras_file(), tflite()",
    ]
    run(home, "train", *flags, *QUICK, f"--workdir={home / 'levels'}")
    manifest = json.loads((home / "levels" / "bundle" / "manifest.json").read_text())
    assert manifest["verified"] == {"keras": True, "tflite": True}


def test_a_changed_plug_in_changes_the_cache_key(tmp_path, monkeypatch):
    """Features that were cached with an earlier version of a plug-in are not used."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "two_versions.py").write_text("FIRST = 1\n")
    (tmp_path / "photos").mkdir()
    run = Run(data=str(tmp_path / "photos"), plugins="two_versions")
    before, again = (preprocessing_key(check(run), "image") for _ in range(2))
    assert before == again
    (tmp_path / "two_versions.py").write_text("SECOND = 2\n")
    assert preprocessing_key(check(run), "image") != before
    assert "plugins" not in preprocessing_key(check(Run(data=str(tmp_path / "photos"))), "image")


def test_a_missing_plug_in_is_an_error():
    """The error names the plug-in."""
    assert "A plug-in cannot be imported: nowhere (No module named 'nowhere')" in get_error(
        "predict", "--plugins=nowhere", "--bundle=x", "a.jpg"
    )
