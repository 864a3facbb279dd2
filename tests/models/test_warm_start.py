"""A run starts from a bundle, or takes its trunk as a tower."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.helpers.assets import asset
from tests.helpers.commands import refused, refused_before_writing, within
from tests.helpers.small_data import picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files
from tfx_finetune.datasets.sources.idx import find_file, read_idx
from tfx_finetune.types.components import BACKBONES

TOWER = "convnet(size=28, widths=(16, 32))"
NONE = ("--frozen.epochs=0", "--finetune.epochs=0")
RATES = (
    "--finetune.unfreeze=all",
    "--finetune.soup_epochs=0",
    "--nofinetune.wise_ft",
    "--finetune.patience=0",
    "--finetune.learning_rate=0.005",
    "--frozen.augmented_views=1",
    "--augment=",
    "--exports=keras_file()",
)


def digits(folder, names, each=60, first=0):
    """Writes handwritten digits of MNIST as pictures, a sub-folder for each of these digits."""
    root = asset("mnist")
    pixels, labels = (
        read_idx(find_file(root, f"train-{kind}-ubyte"), rank)
        for kind, rank in (("images-idx3", 3), ("labels-idx1", 1))
    )
    for name in names:
        (folder / name).mkdir(parents=True)
        for row in np.flatnonzero(labels == int(name))[first : first + each]:
            Image.fromarray(pixels[row]).save(folder / name / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A run on the digits 0 to 4, from scratch."""
    root = tmp_path_factory.mktemp("old")
    flags = (f"--cache.dir={root / 'cache'}", "--batch_size=8", *RATES)
    data = digits(root / "digits", "01234")
    found = within(
        "train",
        f"--data={data}",
        f"--backbone={TOWER}",
        "--frozen.epochs=0",
        "--finetune.epochs=20",
        *flags,
        f"--workdir={root / 'run'}",
    )
    assert found.returncode == 0, found.stderr
    return data, root / "run" / "bundle", flags


def trained(flags, folder, *more):
    """Runs the command; the bundle, and what was said."""
    found = within("train", *flags, *more, f"--workdir={folder}")
    assert found.returncode == 0, found.stderr
    return Bundle.open(folder / "bundle"), found.stderr


def pictures(data):
    return [path.read_bytes() for path in sorted(data.rglob("*.png"))[::15]]


def scores(bundle, raw):
    """Scores of the Keras file, (n, labels)."""
    predict = bundle.reader("keras").predict
    return np.concatenate([predict(bundle.prepare({"image": content}))["label/scores"] for content in raw])


@pytest.mark.slow
def test_without_training_the_answers_are_the_old_ones(old, tmp_path):
    """To the last bit; the backbone is that of the bundle where the run names none."""
    data, path, flags = old
    new, said = trained([f"--data={data}", f"--init={path}", *NONE], tmp_path / "run", *flags)
    assert "label: 5 of 5 labels taken over" in said
    assert new.manifest["backbones"] == {"image": TOWER}
    raw = pictures(data)
    known = scores(Bundle.open(path), raw)
    assert np.array_equal(scores(new, raw), known)
    assert np.mean(known.argmax(-1) == np.arange(20) // 4) > 0.8
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"starts from {path}: image taken over" in page
    assert f"--init={path}" in (tmp_path / "run" / "run.cfg").read_text()


@pytest.mark.slow
def test_labels_are_taken_over_by_name(old, tmp_path):
    """Those that both have answer as they did, in whatever order they stand; new ones begin at nothing."""
    _, path, flags = old
    data = digits(tmp_path / "digits", "47320", each=12, first=60)
    new, said = trained([f"--data={data}", f"--init={path}", *NONE], tmp_path / "run", *flags)
    assert "label: 4 of 5 labels taken over; new: 7; left out: 1" in said
    names = new.tasks["label"].labels.names
    assert names == ("0", "2", "3", "4", "7")
    raw = pictures(data)
    mine, theirs = (np.log(scores(bundle, raw)) for bundle in (new, Bundle.open(path)))
    both = mine[:, :4] - mine[:, :1], theirs[:, [0, 2, 3, 4]] - theirs[:, :1]
    assert np.abs(both[0] - both[1]).max() < 1e-4
    assert np.abs(both[0]).max() > 0.5


@pytest.mark.slow
def test_without_a_label_in_common_the_tower_is_taken_over(old, tmp_path):
    """It is said; the tower is frozen like a pretrained one, and learns nothing while the new head does."""
    _, path, flags = old
    data = digits(tmp_path / "digits", "89")
    options = [f"--data={data}", f"--init={path}", "--frozen.epochs=3", "--finetune.epochs=0"]
    new, said = trained(options, tmp_path / "run", *flags)
    assert "label begins anew: none of its 2 labels is one of the bundle's 5" in said
    mine, theirs = (BACKBONES["bundle"](path=str(folder)) for folder in (new.path, path))
    assert np.array_equal(features(mine, data), features(theirs, data))
    assert json.loads((new.path / "scores.json").read_text())["test"]["label/accuracy"] > 0.6


def features(backbone, data):
    import keras

    raw = np.stack([np.asarray(Image.open(path)) for path in sorted(data.rglob("*.png"))[:8]])[..., None]
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    return model(raw.astype("float32"), training=False).numpy()


@pytest.mark.slow
def test_a_run_goes_on_from_the_same_bundle_alone(old, tmp_path):
    """What it began with is part of it, by content; another path is another run."""
    data, path, flags = old
    copy = shutil.copytree(path, tmp_path / "copy")
    options = [f"--data={data}", f"--init={copy}", "--frozen.epochs=0", "--finetune.epochs=1", *flags]
    first, _ = trained(options, tmp_path / "run")
    stamp = (tmp_path / "run" / "checkpoints" / "tune" / "weights.npz").stat().st_mtime_ns
    again, _ = trained(options, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "tune" / "weights.npz").stat().st_mtime_ns == stamp
    raw = pictures(data)
    assert np.array_equal(scores(first, raw), scores(again, raw))
    said = refused("train", *options, f"--init={path}", f"--workdir={tmp_path / 'run'}")
    assert "holds another run" in said
    assert "--init" in said
    (copy / "scores.json").write_text("{}")
    known = json.loads((copy / "manifest.json").read_text())
    known["sha256"]["scores.json"] = files.sha256(copy / "scores.json")
    (copy / "manifest.json").write_text(json.dumps(known))
    said = refused("train", *options, f"--workdir={tmp_path / 'run'}")
    assert "a bundle of --init or --teacher changed since this run began" in said


@pytest.mark.slow
def test_a_trunk_is_a_tower(old, tmp_path):
    """Its card feeds it, its groups are those of the backbone it was; frozen, it is what it was, trained, it is not."""
    data, path, flags = old
    tower = f"--backbone=bundle(path='{path}')"
    known = BACKBONES["bundle"](path=str(path))
    own = BACKBONES["convnet"](size=28, widths=(16, 32))
    assert [group.name for group in known.groups] == [f"own_{group.name}" for group in own.groups]
    assert (known.pretrained_cfg.size, known.pretrained_cfg.channels, known.pretrained_cfg.mean) == (
        28,
        1,
        own.pretrained_cfg.mean,
    )
    options = [f"--data={data}", tower, "--frozen.epochs=10", "--frozen.learning_rate=0.03", *flags]
    frozen, _ = trained(options, tmp_path / "frozen", "--finetune.epochs=0")
    tuned, _ = trained(
        options, tmp_path / "tuned", "--finetune.epochs=1", "--finetune.unfreeze=1", "--finetune.patience=0"
    )
    towers = [BACKBONES["bundle"](path=str(folder)) for folder in (path, frozen.path)]
    assert np.array_equal(*(features(backbone, data) for backbone in towers))
    assert json.loads((frozen.path / "scores.json").read_text())["test"]["label/accuracy"] > 0.7
    assert tuned.manifest["towers"]["image"]["pretrained_cfg"]["origin"] == str(path)
    history = json.loads((tmp_path / "tuned" / "checkpoints" / "tune" / "history.json").read_text())
    # The last convolution, which is the top group, and the head; normalization stays.
    assert history["trained"] == 9 * 32 * 32 + 32 * 5 + 5


@pytest.fixture(scope="module")
def several(old, tmp_path_factory):
    """Rows of a picture and a text, and flags of a run on both."""
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
def test_of_several_towers_those_of_the_same_name(old, several, tmp_path):
    """A tower beside another keeps what it knew; the head sees something else, so it begins anew. The same towers and
    fusion are taken over with the heads.
    """
    first, said = trained(
        several, tmp_path / "first", f"--init={old[1]}", "--finetune.epochs=1", "--fusion=gated(dim=16)"
    )
    assert f"starts from {old[1]}: image taken over" in said
    assert "all heads begin anew: the bundle has the towers image" in said
    again, said = trained(
        several, tmp_path / "again", f"--init={first.path}", "--finetune.epochs=0", "--fusion=gated(dim=16)"
    )
    assert "image, text taken over" in said
    assert "label: 5 of 5 labels taken over" in said
    raw = {"image": pictures(old[0])[7], "text": b"curved"}
    answers = [bundle.load_model("keras").predict(bundle.preprocess(raw))["label/scores"] for bundle in (first, again)]
    assert np.array_equal(*answers)
    late, said = trained(several, tmp_path / "late", f"--init={first.path}", "--finetune.epochs=0")
    assert "all heads begin anew: the bundle's fusion is gated(dim=16)" in said
    assert not np.array_equal(late.load_model("keras").predict(late.preprocess(raw))["label/scores"], answers[0])


def edited(path, folder, **changes):
    """A copy of a bundle with changes of its manifest."""
    copy = shutil.copytree(path, folder)
    known = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(known | changes))
    return copy


@pytest.mark.slow
def test_bundles_that_a_run_cannot_start_from(old, tmp_path):
    """One line, before anything is written: not a bundle, altered, of another backbone, size or modality."""
    data, path, flags = old
    altered = shutil.copytree(path, tmp_path / "altered")
    with (altered / "model.keras").open("ab") as stream:
        stream.write(b"more")
    older = json.loads((path / "manifest.json").read_text())
    older.pop("layer_names")
    unsaid = shutil.copytree(path, tmp_path / "unsaid")
    (unsaid / "manifest.json").write_text(json.dumps(older))
    cases = {
        ("--init=" + str(tmp_path),): "not a bundle (it has no readable manifest.json)",
        (f"--init={altered}",): "a file of the bundle was altered",
        (f"--init={unsaid}",): "does not say what its network is made of",
        (f"--init={edited(path, tmp_path / 'bare', files={'tflite': {}})}",): "--init needs the bundle's Keras file",
        (f"--init={edited(path, tmp_path / 'small', compress='qat()')}",): "--init cannot take a compressed model",
        (f"--init={path}", "--backbone=convnet()"): f"--init has another backbone; received: image={TOWER} in {path}",
        (f"--init={path}", "--image.size=32"): "two sizes of the input",
        (f"--init={path}", "--backbone=convnet(size=32, widths=(16, 32))"): "allowed: image=convnet(size=32",
        (f"--init={path}", "--backbone=bag_of_embeddings()"): "--init has none of the run's towers; received: image of",
    }
    refused_before_writing(cases, tmp_path / "run", f"--data={data}", *flags)


@pytest.mark.slow
def test_an_adapter_that_stays_is_another_graph(old, tmp_path):
    """A tower with layers that the run's own lacks cannot be taken over; the line says what can be done."""
    data, path, flags = old
    adapter = (
        "--finetune.adapter=bottleneck(dim=4)",
        "--finetune.unfreeze=1",
        "--frozen.epochs=0",
        "--finetune.epochs=1",
    )
    first, _ = trained([f"--data={data}", f"--init={path}", *flags], tmp_path / "first", *adapter)
    said = refused("train", f"--data={data}", f"--init={first.path}", *flags, *NONE, f"--workdir={tmp_path / 'run'}")
    assert "the bundle's tower has other layers" in said
    assert f"take --backbone=bundle(path='{first.path}')" in said
    tower = f"--backbone=bundle(path='{first.path}')"
    trained([f"--data={data}", tower, *flags], tmp_path / "tower", "--frozen.epochs=1", "--finetune.epochs=0")


@pytest.mark.slow
def test_towers_that_a_bundle_does_not_have(old, tmp_path):
    """Another modality, another name, no bundle: one line each."""
    path = old[1]
    cases = {
        f"text_bundle(path='{path}')": "the bundle has no such tower for text; received: text of",
        f"bundle(path='{path}', tower='photo')": "no such tower for image; received: photo of",
        f"bundle(path='{tmp_path}')": "not a bundle",
    }
    for tower, message in cases.items():
        flags = (f"--data={old[0]}", f"--backbone={tower}", "--augment=", f"--workdir={tmp_path / 'run'}")
        assert message in refused("train", *flags)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.mark.slow
def test_a_pretrained_tower_that_was_tuned(tmp_path):
    """EfficientNet-Lite0 on Tux Paint's stamps: the second run starts where the first ended."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        asset(name)
    flags = [
        "--data=tux_stamps()",
        "--image.size=64",
        "--exports=keras_file()",
        f"--cache.dir={tmp_path / 'cache'}",
    ]
    first, _ = trained(flags, tmp_path / "first", "--frozen.epochs=3", "--finetune.epochs=1", "--finetune.unfreeze=2")
    second, said = trained(flags, tmp_path / "second", f"--init={first.path}", *NONE)
    assert "label: 13 of 13 labels taken over" in said
    known = [json.loads((bundle.path / "scores.json").read_text())["test"] for bundle in (first, second)]
    assert known[0] == known[1]
    raw = picture(tmp_path / "one.png").read_bytes()
    assert np.array_equal(scores(first, [raw]), scores(second, [raw]))
