"""Runs that are initialized from a bundle, or that use a tower of a bundle as a backbone."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import check_errors_before_writing, get_error, run_in_process
from tests.helpers.small_data import picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files
from tfx_finetune.datasets.sources.idx import find_file, read_idx
from tfx_finetune.types.components import BACKBONES

TOWER = "convnet(size=28, widths=(16, 32))"
NONE = ("--frozen.epochs=0", "--finetune.epochs=0")
OPTIONS = (
    "--finetune.unfreeze=all",
    "--finetune.soup_epochs=0",
    "--nofinetune.wise_ft",
    "--finetune.patience=0",
    "--finetune.learning_rate=0.005",
    "--frozen.augmented_views=1",
    "--augment=",
    "--exports=keras_file()",
)


def digits(folder, names, count=60, start=0):
    """Write images of handwritten digits of MNIST, with one sub-folder per digit."""
    root = fetch_asset("mnist")
    pixels, labels = (
        read_idx(find_file(root, f"train-{kind}-ubyte"), rank)
        for kind, rank in (("images-idx3", 3), ("labels-idx1", 1))
    )
    for name in names:
        (folder / name).mkdir(parents=True)
        for row in np.flatnonzero(labels == int(name))[start : start + count]:
            Image.fromarray(pixels[row]).save(folder / name / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Train a bundle on the digits 0 to 4, from scratch."""
    root = tmp_path_factory.mktemp("old")
    flags = (f"--cache.dir={root / 'cache'}", "--batch_size=8", *OPTIONS)
    data = digits(root / "digits", "01234")
    result = run_in_process(
        "train",
        f"--data={data}",
        f"--backbone={TOWER}",
        "--frozen.epochs=0",
        "--finetune.epochs=20",
        *flags,
        f"--workdir={root / 'run'}",
    )
    assert result.returncode == 0, result.stderr
    return data, root / "run" / "bundle", flags


def train(flags, folder, *more):
    """Run `train` and return the bundle and the printed text."""
    result = run_in_process("train", *flags, *more, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return Bundle.open(folder / "bundle"), result.stderr


def read_images(data):
    return [path.read_bytes() for path in sorted(data.rglob("*.png"))[::15]]


def scores(bundle, raw):
    """Return the scores of the Keras file, (n, classes)."""
    predict = bundle.load_model("keras").predict
    return np.concatenate([predict(bundle.preprocess({"image": content}))["label/scores"] for content in raw])


@pytest.mark.slow
def test_without_training_the_outputs_are_equal(old, tmp_path):
    """Outputs are equal to the last bit; the default backbone is that of the bundle."""
    data, path, flags = old
    new, text = train([f"--data={data}", f"--init={path}", *NONE], tmp_path / "run", *flags)
    assert "Head label: 5 of 5 classes initialized" in text
    assert new.manifest["backbones"] == {"image": TOWER}
    raw = read_images(data)
    expected = scores(Bundle.open(path), raw)
    assert np.array_equal(scores(new, raw), expected)
    assert np.mean(expected.argmax(-1) == np.arange(20) // 4) > 0.8
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Initialized from {path}: image" in page
    assert f"--init={path}" in (tmp_path / "run" / "run.cfg").read_text()


@pytest.mark.slow
def test_classes_are_initialized_by_name(old, tmp_path):
    """Common classes have equal logits in every order; new classes keep their initialization."""
    _, path, flags = old
    data = digits(tmp_path / "digits", "47320", count=12, start=60)
    new, text = train([f"--data={data}", f"--init={path}", *NONE], tmp_path / "run", *flags)
    assert "Head label: 4 of 5 classes initialized; new: 7; dropped: 1" in text
    names = new.tasks["label"].labels.names
    assert names == ("0", "2", "3", "4", "7")
    raw = read_images(data)
    new_logits, old_logits = (np.log(scores(bundle, raw)) for bundle in (new, Bundle.open(path)))
    common = new_logits[:, :4] - new_logits[:, :1], old_logits[:, [0, 2, 3, 4]] - old_logits[:, :1]
    assert np.abs(common[0] - common[1]).max() < 1e-4
    assert np.abs(common[0]).max() > 0.5


@pytest.mark.slow
def test_without_common_classes_only_the_tower_is_initialized(old, tmp_path):
    """The tower is frozen like a pretrained one while the new head is trained."""
    _, path, flags = old
    data = digits(tmp_path / "digits", "89")
    options = [f"--data={data}", f"--init={path}", "--frozen.epochs=3", "--finetune.epochs=0"]
    new, text = train(options, tmp_path / "run", *flags)
    assert "Head label is new: none of its 2 classes is one of the bundle's 5" in text
    new_tower, old_tower = (BACKBONES["bundle"](path=str(folder)) for folder in (new.path, path))
    assert np.array_equal(features(new_tower, data), features(old_tower, data))
    assert json.loads((new.path / "scores.json").read_text())["test"]["label/accuracy"] > 0.6


def features(backbone, data):
    import keras

    raw = np.stack([np.asarray(Image.open(path)) for path in sorted(data.rglob("*.png"))[:8]])[..., None]
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    return model(raw.astype("float32"), training=False).numpy()


@pytest.mark.slow
def test_a_run_resumes_only_with_the_same_bundle(old, tmp_path):
    """The content of the bundle is part of the run; another path is another run."""
    data, path, flags = old
    copy = shutil.copytree(path, tmp_path / "copy")
    options = [f"--data={data}", f"--init={copy}", "--frozen.epochs=0", "--finetune.epochs=1", *flags]
    first, _ = train(options, tmp_path / "run")
    stamp = (tmp_path / "run" / "checkpoints" / "finetune" / "weights.npz").stat().st_mtime_ns
    second, _ = train(options, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "finetune" / "weights.npz").stat().st_mtime_ns == stamp
    raw = read_images(data)
    assert np.array_equal(scores(first, raw), scores(second, raw))
    text = get_error("train", *options, f"--init={path}", f"--workdir={tmp_path / 'run'}")
    assert "The work folder holds another run" in text
    assert "--init" in text
    (copy / "scores.json").write_text("{}")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sha256"]["scores.json"] = files.sha256(copy / "scores.json")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    text = get_error("train", *options, f"--workdir={tmp_path / 'run'}")
    assert "A bundle of --init or --teacher changed since the run started" in text


@pytest.mark.slow
def test_a_tower_of_a_bundle_is_a_backbone(old, tmp_path):
    """It has the input and the layer groups of the original backbone, and its weights if it is frozen."""
    data, path, flags = old
    tower = f"--backbone=bundle(path='{path}')"
    loaded = BACKBONES["bundle"](path=str(path))
    original = BACKBONES["convnet"](size=28, widths=(16, 32))
    assert [group.name for group in loaded.groups] == [f"own_{group.name}" for group in original.groups]
    cfg = loaded.pretrained_cfg
    assert (cfg.size, cfg.channels, cfg.mean) == (28, 1, original.pretrained_cfg.mean)
    options = [f"--data={data}", tower, "--frozen.epochs=10", "--frozen.learning_rate=0.03", *flags]
    frozen, _ = train(options, tmp_path / "frozen", "--finetune.epochs=0")
    tuned, _ = train(
        options, tmp_path / "tuned", "--finetune.epochs=1", "--finetune.unfreeze=1", "--finetune.patience=0"
    )
    towers = [BACKBONES["bundle"](path=str(folder)) for folder in (path, frozen.path)]
    assert np.array_equal(*(features(backbone, data) for backbone in towers))
    assert json.loads((frozen.path / "scores.json").read_text())["test"]["label/accuracy"] > 0.7
    assert tuned.manifest["towers"]["image"]["pretrained_cfg"]["origin"] == str(path)
    history = json.loads((tmp_path / "tuned" / "checkpoints" / "finetune" / "history.json").read_text())
    # The last convolution, which is the top group, and the head; batch normalization stays frozen.
    assert history["trained_parameters"] == 9 * 32 * 32 + 32 * 5 + 5


@pytest.fixture(scope="module")
def several(old, tmp_path_factory):
    """Write a table of images and texts, and return the flags of a run on both."""
    root = tmp_path_factory.mktemp("several")
    rows = [
        {
            "image": str(path),
            "text": ("round", "long", "curved", "half", "open")[int(path.parent.name)],
            "label": path.parent.name,
        }
        for path in sorted(old[0].rglob("*.png"))
    ]
    with (root / "t.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    towers = f"--backbone=image={TOWER}, text=bag_of_embeddings(size=8, dim=8)"
    return [f"--data={root / 't.csv'}", towers, "--frozen.epochs=0", *old[2]]


@pytest.mark.slow
def test_towers_are_initialized_by_name(old, several, tmp_path):
    """With other towers or another fusion, only towers are initialized; with the same ones, fusion and heads too."""
    first, text = train(
        several, tmp_path / "first", f"--init={old[1]}", "--finetune.epochs=1", "--fusion=gated(dim=16)"
    )
    assert f"Initialized from {old[1]}: image" in text
    assert "All heads are new: the bundle has the towers image" in text
    second, text = train(
        several, tmp_path / "again", f"--init={first.path}", "--finetune.epochs=0", "--fusion=gated(dim=16)"
    )
    assert f"Initialized from {first.path}: image, text" in text
    assert "Head label: 5 of 5 classes initialized" in text
    raw = {"image": read_images(old[0])[7], "text": b"curved"}
    outputs = [bundle.load_model("keras").predict(bundle.preprocess(raw))["label/scores"] for bundle in (first, second)]
    assert np.array_equal(*outputs)
    late, text = train(several, tmp_path / "late", f"--init={first.path}", "--finetune.epochs=0")
    assert "All heads are new: the bundle's fusion is gated(dim=16)" in text
    assert not np.array_equal(late.load_model("keras").predict(late.preprocess(raw))["label/scores"], outputs[0])


def copy_with_manifest(path, folder, **changes):
    """Copy a bundle and change its manifest."""
    copy = shutil.copytree(path, folder)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    return copy


@pytest.mark.slow
def test_unsuitable_init_bundles_are_refused(old, tmp_path):
    """Such as other folders, changed files, and other backbones, sizes or modalities; nothing is written."""
    data, path, flags = old
    changed = shutil.copytree(path, tmp_path / "altered")
    with (changed / "model.keras").open("ab") as stream:
        stream.write(b"more")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("layer_names")
    nameless = shutil.copytree(path, tmp_path / "nameless")
    (nameless / "manifest.json").write_text(json.dumps(manifest))
    cases = {
        ("--init=" + str(tmp_path),): "The folder has no readable manifest.json and is not a bundle",
        (f"--init={changed}",): "A file of the bundle was changed",
        (f"--init={nameless}",): "The manifest of the bundle has no layer names",
        (
            f"--init={copy_with_manifest(path, tmp_path / 'bare', files={'tflite': {}})}",
        ): "--init needs a bundle with a Keras file",
        (
            f"--init={copy_with_manifest(path, tmp_path / 'small', compress='qat()')}",
        ): "--init cannot use a compressed model",
        (
            f"--init={path}",
            "--backbone=convnet()",
        ): f"The bundle of --init has another backbone: image={TOWER} in {path}",
        (f"--init={path}", "--backbone=convnet(size=32, widths=(16, 32))"): "Expected: image=convnet(size=32",
        (f"--init={path}", "--backbone=bag_of_embeddings()"): "The bundle of --init has no tower of the run: image of",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={data}", *flags)


@pytest.mark.slow
def test_a_tower_with_adapters_needs_the_same_adapters(old, tmp_path):
    """A tower with inserted adapters cannot initialize a tower without them; the error names two solutions."""
    data, path, flags = old
    adapter = (
        "--finetune.adapter=bottleneck(dim=4)",
        "--finetune.unfreeze=1",
        "--frozen.epochs=0",
        "--finetune.epochs=1",
    )
    first, _ = train([f"--data={data}", f"--init={path}", *flags], tmp_path / "first", *adapter)
    text = get_error("train", f"--data={data}", f"--init={first.path}", *flags, *NONE, f"--workdir={tmp_path / 'run'}")
    assert "The tower of the bundle has other layers" in text
    assert f"use --backbone=bundle(path='{first.path}')" in text
    tower = f"--backbone=bundle(path='{first.path}')"
    train([f"--data={data}", tower, *flags], tmp_path / "tower", "--frozen.epochs=1", "--finetune.epochs=0")


@pytest.mark.slow
def test_missing_towers_are_refused(old, tmp_path):
    """Such as another modality, another name and a folder that is not a bundle."""
    path = old[1]
    cases = {
        f"text_bundle(path='{path}')": "The bundle has no such text tower: text of",
        f"bundle(path='{path}', tower='photo')": "The bundle has no such image tower: photo of",
        f"bundle(path='{tmp_path}')": "is not a bundle",
    }
    for tower, message in cases.items():
        flags = (f"--data={old[0]}", f"--backbone={tower}", "--augment=", f"--workdir={tmp_path / 'run'}")
        assert message in get_error("train", *flags)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.mark.slow
def test_a_fine_tuned_pretrained_tower(tmp_path):
    """EfficientNet-Lite0 on Tux Paint's stamps: the second run has the scores of the first."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        fetch_asset(name)
    flags = [
        "--data=tux_stamps()",
        "--backbone=efficientnet_lite0(size=64)",
        "--exports=keras_file()",
        f"--cache.dir={tmp_path / 'cache'}",
    ]
    first, _ = train(flags, tmp_path / "first", "--frozen.epochs=3", "--finetune.epochs=1", "--finetune.unfreeze=2")
    second, text = train(flags, tmp_path / "second", f"--init={first.path}", *NONE)
    assert "Head label: 13 of 13 classes initialized" in text
    metrics = [json.loads((bundle.path / "scores.json").read_text())["test"] for bundle in (first, second)]
    assert metrics[0] == metrics[1]
    raw = picture(tmp_path / "one.png").read_bytes()
    assert np.array_equal(scores(first, [raw]), scores(second, [raw]))
