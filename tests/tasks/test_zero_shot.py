"""Class names in other languages, and zero-shot classification."""

import json

import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import (
    SHAPE_NAMES,
    SMALL_FLAGS,
    check_errors_before_writing,
    get_error,
    run_in_process,
    write_shapes,
)
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.tasks import text_embeddings
from tfx_finetune.tasks.translations import add_translations, get_names_in_language, load_translations, make_label_files
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels

NAMES = "label,language,text\nbar,es,raya\ndisc,es,disco\nsquare,es,cuadrado\ndisc,ja,円\nsquare,ja,四角\n"
TOWER = "use_multilingual(size=16)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a classifier of shapes whose classes have names in Spanish and, but for one, in Japanese."""
    root = tmp_path_factory.mktemp("names")
    data = write_shapes(root / "shapes")
    (root / "names.csv").write_text(NAMES)
    flags = (
        f"--data={data}",
        f"--label_translations={root / 'names.csv'}",
        f"--workdir={root / 'run'}",
        "--exports=tflite()",
    )
    process = run_in_process(
        "train",
        *flags,
        *SMALL_FLAGS,
        "--frozen.epochs=0",
        "--finetune.epochs=1",
        "--nocache.enabled",
        "--verify.max_drop_float=1",
    )
    assert process.returncode == 0, process.stderr
    return root


@pytest.mark.slow
def test_a_bundle_has_a_label_file_per_language(run):
    """Label files are in the order of labels.txt; a missing name is the class name."""
    bundle = run / "run" / "bundle"
    assert (bundle / "labels.txt").read_text().split() == list(SHAPE_NAMES)
    assert (bundle / "labels.es.txt").read_text().split() == ["raya", "disco", "cuadrado"]
    assert (bundle / "labels.ja.txt").read_text().split() == ["bar", "円", "四角"]


@pytest.mark.slow
def test_predictions_in_a_language(run):
    """Label and scores have the names of `labels.<language>.txt`."""
    picture, bundle = run / "shapes" / "disc" / "000.png", run / "run" / "bundle"
    plain, spanish = (
        json.loads(run_in_process("predict", f"--bundle={bundle}", *flags, picture).stdout)
        for flags in ((), ("--language=es",))
    )
    spoken = dict(zip(SHAPE_NAMES, ("raya", "disco", "cuadrado"), strict=True))
    assert spanish["label"] == spoken[plain["label"]]
    assert spanish["scores"] == {spoken[name]: score for name, score in plain["scores"].items()}
    (japanese,) = Bundle.open(bundle).predict([{"image": str(picture), "language": "ja"}])
    assert set(japanese["scores"]) == {"bar", "円", "四角"}


@pytest.mark.slow
def test_unknown_languages_and_classes_are_refused(run):
    """The error lists the languages of the model, or says that its classes are fixed."""
    picture, bundle = run / "shapes" / "disc" / "000.png", f"--bundle={run / 'run' / 'bundle'}"
    error = get_error("predict", bundle, "--language=jaa", picture)
    assert "The model has no class names in this language: jaa. Expected: es, ja. Did you mean ja?" in error
    assert "The classes of this model are fixed: --classes=a, b." in get_error(
        "predict", bundle, "--classes=a, b", picture
    )
    assert "--classes needs two or more names" in get_error("predict", bundle, "--classes=a,a", picture)


def test_invalid_translations_and_options_are_refused(tmp_path):
    """Errors come before anything is written."""
    data = class_folder(tmp_path / "data", a=4, b=4)
    (tmp_path / "n.csv").write_text("label,text\na,x\nb,y\n")
    cases = {
        ("--label_translations=digit_word()",): "Unknown source: digit_word",
        ("--heads=zero_shot(tower='convnet')",): "Wrong value for tower of task zero_shot",
        ("--heads=zero_shot(tower=convnet())",): "tower of zero_shot() must be a text backbone",
        ("--heads=zero_shot(temperature=0)",): "temperature of zero_shot() is out of range: 0",
        ("--heads=zero_shot()", "--compress=qat()"): "--compress needs heads with fixed classes",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={data}", "--nocache.enabled", SMALL_FLAGS[0])
    error = get_error(
        "train",
        f"--data={data}",
        SMALL_FLAGS[0],
        f"--label_translations={tmp_path / 'n.csv'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "The data of --label_translations has no column language" in error


def test_translations_of_classes():
    """The first of several names counts, and the class name is added to equal names."""
    fetch_asset("cldr-rbnf")
    names = load_translations(Spec("digit_words", (), {"languages": ("de", "es")}), ["label", "other"])
    assert set(names) == {"label"}
    labels = add_translations(ClassLabels(("0", "7"), (1, 1), 2), names["label"])
    assert labels.translations == {"de": ("null", "sieben"), "es": ("cero", "siete")}
    same = ClassLabels(("frog", "toad"), (1, 1), 2, {"xx": ("rana", "rana"), "yy": ("rana", "")})
    assert get_names_in_language(same, "xx") == ("rana (frog)", "rana (toad)")
    assert make_label_files({"a": same, "b": labels}) == {
        "labels.a.xx.txt": "rana (frog)\nrana (toad)\n",
        "labels.a.yy.txt": "rana\ntoad\n",
        "labels.b.de.txt": "null\nsieben\n",
        "labels.b.es.txt": "cero\nsiete\n",
    }


def test_retrieval_by_hand(monkeypatch):
    """Four names on two axes: recall by language."""
    embeddings = {"n": (0, 1), "o": (1, 0), "s": (0, -1), "w": (-1, 0)}
    monkeypatch.setattr(
        text_embeddings, "embed_texts", lambda tower, texts: np.array([embeddings[text] for text in texts], float)
    )
    monkeypatch.setattr(text_embeddings, "RECALL_AT", (1, 2))
    targets = np.eye(4)[[0, 1, 2, 3]]
    samples = np.array([(0.1, 0.9), (0.6, 0.8), (0.6, 0.8), (-0.9, 0.1)])
    scores = text_embeddings.compute_retrieval_metrics(
        Spec("any"),
        targets,
        samples,
        {"all": ("n", "o", "s", "w"), "two": ("n", "", "", "w"), "one": ("n", "", "", "")},
    )
    assert scores == {
        "recall@1[all]": 0.5,  # the second one is nearer to n, the third one farthest from s
        "recall@2[all]": 0.75,
        "chance@5[all]": 1.0,
        "recall@1[two]": 1.0,
        "recall@2[two]": 1.0,
        "chance@5[two]": 1.0,
    }


def test_scores_and_loss_by_hand():
    """Scores count all names; the loss leaves out names without training samples, except a sample's own."""
    task = TASKS.build(parse_spec("zero_shot(temperature=1.0)"), ClassLabels(("a", "b", "c"), (1, 1, 0), 2))
    scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    metrics = task.compute_metrics(np.eye(3)[[0, 2]], scores)
    assert (metrics["recall@1"], metrics["recall@5"]) == (0.5, 1.0)
    logits = np.log([[0.5, 0.25, 0.25]]).astype(np.float32)
    assert float(task.loss(np.eye(3, dtype=np.float32)[:1], logits)) == pytest.approx(np.log(3 / 2), rel=1e-5)
    assert float(task.loss(np.eye(3, dtype=np.float32)[2:], logits)) == pytest.approx(np.log(4), rel=1e-5)


def test_a_random_text_tower_is_refused():
    """The embeddings of random weights would differ in every process."""
    assert "zero_shot() needs a pretrained text tower: bag_of_embeddings() with random weights" in complaint(
        text_embeddings.embed_texts, parse_spec("bag_of_embeddings()"), ("a", "b")
    )


def test_translations_have_similar_embeddings():
    """Translations of a word are nearer than other words, and embeddings have unit length."""
    fetch_asset("use-multilingual")
    embeddings = text_embeddings.embed_texts(parse_spec(TOWER), ("cat", "gato", "horse", "caballo"))
    assert np.allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-5)
    similarity = embeddings @ embeddings.T
    assert min(similarity[0, 1], similarity[2, 3]) > 0.8 > max(similarity[0, 2], similarity[0, 3], similarity[1, 2])


@pytest.mark.slow
def test_zero_shot_classification_of_shapes(tmp_path):
    """Images are classified by names that are given at prediction, in another language, in each format."""
    fetch_asset("use-multilingual")
    data = write_shapes(tmp_path / "shapes")
    (tmp_path / "names.csv").write_text(NAMES)
    flags = (f"--data={data}", f"--label_translations={tmp_path / 'names.csv'}", f"--workdir={tmp_path / 'run'}")
    exports = "--exports=keras_file(), saved_model(), tflite()"
    # Few validation samples do not tell when to stop.
    head = ("--frozen.epochs=0", "--heads=zero_shot(dropout=0.0)", "--finetune.patience=0")
    process = run_in_process("train", *flags, *SMALL_FLAGS, *head, "--nocache.enabled", exports)
    assert process.returncode == 0, process.stderr
    bundle = Bundle.open(tmp_path / "run" / "bundle")
    scores = json.loads((bundle.path / "scores.json").read_text())
    assert scores["test"]["label/recall@1"] > 0.8
    assert scores["test"]["label/recall@1[es]"] > 0.8
    assert scores["tflite"]["label/recall@1[es]"] > 0.8
    pictures = sorted((data / "disc").iterdir())[:8]
    for format in bundle.formats:
        records = bundle.predict(pictures, format, classes=["un cuadrado", "un disque", "une barre"])
        assert sum(record["label"] == "un disque" for record in records) >= 6
    page = (tmp_path / "run" / "report.html").read_text()
    assert "chance@5" in page
