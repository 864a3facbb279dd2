"""How languages fare: scores, the worst one, and tokens a word."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers import report_data
from tests.helpers.commands import within
from tests.tasks.test_routing import SMALL, WORDS, table
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.evaluation import slices
from tfx_finetune.report import page
from tfx_finetune.types.components import TASKS, SamplePreview
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("two words", 2),
        ("  don't   stop ", 2),
        ("三花猫", 3),
        ("ネコ cat", 3),
        ("고양이 두 마리", 3),
        ("แมว", 3),
        ("قطة صغيرة", 2),
        ("", 0),
    ],
)
def test_words(text, count):
    """As blanks part them; characters where a script has none."""
    assert slices.count_words(text) == count


def test_the_worst_language_is_named():
    """By hand, of a head that answers all; a head of one language has no others."""
    language = np.array(["en", "en", "fi", "sv", "xx"], object)
    split = np.array(["test"] * 4 + ["train"], object)
    data = Table(language, language, language, split, {"language": language})
    labels = ClassLabels(("a", "b"), (1, 1), 2)
    tasks = {"label": TASKS.build(parse_spec("classify()"), labels)}
    tasks["en"] = TASKS.build(parse_spec("classify(heads_by='language')"), labels)
    scores = {"label/accuracy[en]": 0.9, "label/accuracy[fi]": 0.5, "label/accuracy[sv]": 0.7, "en/accuracy": 0.1}
    (gap,) = slices.find_worst_groups(data, tasks, scores)
    assert (gap.column, gap.worst_group, gap.best_group) == ("language", "fi", "en")
    assert str(gap) == "worst language by accuracy of label: fi 0.500, 0.400 below en"
    assert slices.find_worst_groups(data, tasks, {"label/accuracy[en]": 0.9}) == ()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two languages, of which the tower reads the characters."""
    root = tmp_path_factory.mktemp("lanes")
    flags = (f"--data={table(root / 't.csv', WORDS, 20)}", *SMALL, "--frozen.epochs=1", "--exports=keras_file()")
    done = within("train", *flags, f"--workdir={root / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "worst language by accuracy of label" in done.stderr
    return root / "run"


def test_tokens_a_word(run):
    """Characters, blanks among them, over the words of four that each text has, cut at the tower's 24."""
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    texts = [line.split(",") for line in (run.parent / "t.csv").read_text().splitlines()[1:]]
    for language in ("en", "fi"):
        own = [text for text, _, of in texts if of == language]
        expected = sum(min(len(text), 24) for text in own) / (4 * len(own))
        assert manifest["tokenizer_fertility"][language] == pytest.approx(expected)


def test_the_report_has_them(run):
    """With precision, recall and F1 beside the accuracy."""
    found = report_data.Page((run / "report.html").read_text())
    assert {"Tokenizer fertility", "precision", "recall", "F1"} <= set(found.texts)
    assert "Worst language by accuracy" in found.text
    scores = json.loads((run / "bundle" / "scores.json").read_text())["test"]
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        assert 0 <= scores[f"label/{name}[fi]"] <= 1


def test_texts_run_as_their_script_does(tmp_path):
    """From the right where it does, and in the glyphs of their language."""
    exhibit = SamplePreview(text="قطة صغيرة")
    mistake = page.Mistake((exhibit,), "a", ("x",), ("y",), 0.9, language="zh_TW")
    report = dataclasses.replace(report_data.make_report(mistakes=0), mistakes=(mistake,))
    (given,) = [given for tag, given in report_data.render(report, tmp_path).tags if tag == "blockquote"]
    assert given == {"dir": "auto", "lang": "zh-TW"}
