"""Tests of the scores of languages, the worst language, and tokenizer fertility."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers import report_data
from tests.helpers.commands import run_in_process
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
def test_words_are_separated_by_spaces(text, count):
    """In scripts without spaces, each character is a word."""
    assert slices.count_words(text) == count


def test_the_worst_language_is_found():
    """Only the head of all samples is compared; a per-language head has a single language."""
    language = np.array(["en", "en", "fi", "sv", "xx"], object)
    split = np.array(["test"] * 4 + ["train"], object)
    data = Table(language, language, language, split, {"language": language})
    labels = ClassLabels(("a", "b"), (1, 1), 2)
    tasks = {"label": TASKS.build(parse_spec("classify()"), labels)}
    tasks["en"] = TASKS.build(parse_spec("classify(heads_by='language')"), labels)
    scores = {"label/accuracy[en]": 0.9, "label/accuracy[fi]": 0.5, "label/accuracy[sv]": 0.7, "en/accuracy": 0.1}
    (worst,) = slices.find_worst_groups(data, tasks, scores)
    assert (worst.column, worst.worst_group, worst.best_group) == ("language", "fi", "en")
    assert str(worst) == "worst language by accuracy of label: fi 0.500, 0.400 below en"
    assert slices.find_worst_groups(data, tasks, {"label/accuracy[en]": 0.9}) == ()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a run on two languages, whose tower reads characters."""
    root = tmp_path_factory.mktemp("slices")
    flags = (f"--data={table(root / 't.csv', WORDS, 20)}", *SMALL, "--frozen.epochs=1", "--exports=keras_file()")
    result = run_in_process("train", *flags, f"--workdir={root / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "worst language by accuracy of label" in result.stderr
    return root / "run"


def test_fertility_is_the_number_of_tokens_per_word(run):
    """Tokens are characters with spaces, at most 24 per text; each text has four words."""
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    texts = [line.split(",") for line in (run.parent / "t.csv").read_text().splitlines()[1:]]
    for language in ("en", "fi"):
        language_texts = [text for text, _, name in texts if name == language]
        expected = sum(min(len(text), 24) for text in language_texts) / (4 * len(language_texts))
        assert manifest["tokenizer_fertility"][language] == pytest.approx(expected)


def test_the_report_has_the_scores_of_languages(run):
    """The table has accuracy, precision, recall and F1."""
    report = report_data.Page((run / "report.html").read_text())
    assert {"Tokenizer fertility", "precision", "recall", "F1"} <= set(report.texts)
    assert "Worst language by accuracy" in report.text
    scores = json.loads((run / "bundle" / "scores.json").read_text())["test"]
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        assert 0 <= scores[f"label/{name}[fi]"] <= 1


def test_texts_have_direction_and_language(tmp_path):
    """Arabic text runs from right to left; the language selects the glyphs."""
    preview = SamplePreview(text="قطة صغيرة")
    mistake = page.Mistake((preview,), "a", ("x",), ("y",), 0.9, language="zh_TW")
    report = dataclasses.replace(report_data.make_report(mistakes=0), mistakes=(mistake,))
    (attributes,) = [attributes for tag, attributes in report_data.render(report, tmp_path).tags if tag == "blockquote"]
    assert attributes == {"dir": "auto", "lang": "zh-TW"}
