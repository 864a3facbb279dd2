"""The report shows everything it is given as text, loads nothing, and is the same for the same input."""

import dataclasses
import re

import numpy as np
import pytest

from tests.helpers.report_data import (
    ANIMALS,
    EXPORTS,
    HOSTILE,
    INT8,
    KERAS,
    Page,
    curve,
    make,
    page,
    single_label_head,
    tagging_head,
    written,
)
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.report.head_results import ClassScore, HeadResult
from tfx_finetune.report.page import ClassCount, DataSummary, ExportRow, HeadlineScore, Mistake, PhaseResult
from tfx_finetune.types.components import SamplePreview


def test_everything_is_shown(tmp_path):
    """A reader finds the verdict, every class, file, phase and number in words for people."""
    report = make()
    found = page(report, tmp_path)
    wanted = ["0.859", "accuracy on 192 held-out pictures", "95 % interval 0.810", "All 3 exported files are verified"]
    wanted += [
        *ANIMALS,
        "tflite_int8",
        "model_int8.tflite",
        "3.7 MB",
        "\u22120.016",
        "38.10 ms",
        "2.4e-07",
        "2 min 31 s",
    ]
    wanted += ["warm", "tune", "16,653 of 3,393,421", "best epoch 5", "learning rate 0.01 at most", "--seed=0"]
    wanted += ["12 identical files were kept on one side", "2.21.0", "2025-01-31 12:00 UTC", "balanced accuracy"]
    assert [text for text in wanted if text not in found.text] == []
    assert found.count("img") == 24
    assert str(report.headline) == "0.859 accuracy on 192 held-out pictures (95 % interval 0.810 to 0.903)"


@pytest.mark.parametrize(
    "report",
    [
        make(),
        make(ANIMALS[:2]),
        make([f"class {i}" for i in range(40)]),
        make([f"class {i}" for i in range(120)]),
        make(HOSTILE),
        make(heads=(tagging_head(ANIMALS, np.random.default_rng(0)),)),
    ],
    ids=["13", "2", "40", "120", "hostile", "tags"],
)
def test_page_is_well_formed_and_loads_nothing(report, tmp_path):
    """Elements nest, ids are unique, references stay inside, and the page stays small."""
    html = written(report, tmp_path).decode()
    found = Page(html)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            address = attributes.get(name, "#")
            assert address.startswith("data:") or address == "#" or address[1:] in ids, f"<{tag} {name}={address}>"
    assert {tag for tag, _ in found.tags} & {"iframe", "object", "embed", "base", "form"} == set()
    assert re.search(r"https?://|@import", html) is None
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in ids}
    assert len(html.encode()) < 3_000_000


@pytest.mark.parametrize("names", [ANIMALS, [f"class {i}" for i in range(120)], HOSTILE], ids=["13", "120", "hostile"])
def test_every_class_stands_as_it_is_called(names, tmp_path):
    """No class is lost, however many there are and whatever they are called."""
    found = page(make(names), tmp_path)
    assert [name for name in names if name not in found.text] == []


def test_hostile_text_stays_text(tmp_path):
    """Markup in any text that a user's data or machine supplies never becomes an element or a script."""
    plain, evil = make(), "<script>evil()</script><img src=x onerror=evil()>\"'"
    row = ExportRow(dataclasses.replace(KERAS, format=evil, reason=evil), evil)
    data = DataSummary(evil, {evil: 3}, {evil: (ClassCount(evil, 1, 1, 1),)}, ((evil, evil),), warnings=(evil,))
    mistake = Mistake(plain.mistakes[0].previews, evil, (evil,), (evil,), 0.5, ((evil, 0.5),), evil)
    hostile = dataclasses.replace(
        plain,
        title=evil,
        command=evil,
        config=evil,
        created=evil,
        environment={evil: evil},
        verdict=HeadlineScore(0.5, evil, 1, evil),
        data=data,
        phases=(dataclasses.replace(curve(evil, 3, np.random.default_rng(0)), metrics={evil: [1, 2], "loss": [1, 2]}),),
        heads=(single_label_head([evil, evil], np.random.default_rng(0), evil),) * 2,
        mistakes=(mistake,),
        exports=(row,),
    )
    found = page(hostile, tmp_path)
    assert found.count("script") == 1
    assert found.count("img") == 1
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count("evil()</script>") > 20


def test_file_name_that_is_not_unicode(tmp_path):
    """Linux file names are bytes; one that is not UTF-8 must not cost the report."""
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    data = dataclasses.replace(make().data, skipped=((name, "truncated"),))
    assert "caf\\udce9.png" in page(make(data=data), tmp_path).text


def test_same_report_gives_same_bytes(tmp_path):
    """Two runs can be compared by their reports: no dates, random ids or addresses of objects."""
    assert written(make(), tmp_path) == written(make(), tmp_path)


def test_missing_parts(tmp_path):
    """A run without phases, heads, mistakes or exports still has a report, without empty sections."""
    bare = make(mistakes=0, heads=(), phases=(), exports=(), data=DataSummary("photos", {"test": 4}), environment={})
    found = page(dataclasses.replace(bare, verdict=HeadlineScore(1.0, "accuracy", 4)), tmp_path)
    assert "No files exported" in found.text
    headings = [text for text in ("Files", "Classes", "Mistakes", "Training") if text in found.texts]
    assert headings == []
    assert {"#result", "#data", "#reproduce"} == {a["href"] for tag, a in found.tags if tag == "a"}


def test_several_heads(tmp_path):
    """Each head has its own section; a head that tags has no confusion matrix."""
    rng = np.random.default_rng(1)
    heads = (single_label_head(ANIMALS[:3], rng, "animal"), tagging_head(("wet", "furry", "rare"), rng))
    found = page(make(heads=heads), tmp_path)
    assert {"animal", "tags", "Average precision"} <= set(found.texts)
    assert [a["class"] for tag, a in found.tags if tag == "table" and "heat" in a.get("class", "")] == ["heat few"]


def test_a_head_of_pixels(tmp_path):
    """Its classes have an intersection over union, and what is counted are pixels."""
    rows = (ClassScore("sky", 0.9, 0.8, 0.85, 4321, iou=0.739), ClassScore("sea", 0.0, 0.0, 0.0, 0, iou=0.0))
    head = HeadResult(
        *("mask", "miou", {"miou": 0.739}, None, ("sky", "sea"), np.array([[4000, 321], [0, 0]])),
        per_class=rows,
        count_unit="pixels",
    )
    found = page(make(heads=(head,)), tmp_path)
    assert {"IoU", "0.739", "Held out, pixels"} <= set(found.texts)
    assert "the model said; pixels counted" in found.text
    assert "IoU" not in page(make(), tmp_path).texts


def test_a_head_that_finds_objects(tmp_path):
    """A curve a class with its average precision, the worst first; of many the four worst and the mean of all."""
    found = {f"c{n}": [1.0] * n + [0.0] * (10 - n) for n in (6, 5, 4, 3, 2, 1)}
    shown = []
    for count in (1, 4, 6):
        curves = dict(list(found.items())[-count:])
        head = HeadResult("objects", "map", {"map": 0.2, "ap50": 0.35}, classes=tuple(curves), curves=curves)
        text = page(make(heads=(head,), mistakes=0, phases=(), exports=()), tmp_path)
        legend = text.texts[text.texts.index("Precision and recall") :]
        shown.append([line for line in legend if re.fullmatch(r"c\d|mean of all| ?\d\.\d{3}", line)])
        assert ("classes the worst" in text.text) == (count > 4)
        widths = [head.precision_recall_plot.svg.count(f"stroke-width: {width}") for width in (1.6, 2.4)]
        assert widths == [min(count, 4), count > 1]
    four = ["c1", " 0.100", "c2", " 0.200", "c3", " 0.300", "c4", " 0.400"]
    assert shown == [["c1", " 0.100"], ["mean of all", " 0.250", *four], ["mean of all", " 0.350", *four]]
    assert "Precision and recall" not in page(make(), tmp_path).texts


def test_many_classes_show_pairs_instead_of_cells(tmp_path):
    """Beyond 40 classes a heat map cannot be read; the pairs that are confused most often can."""
    names = [f"class {i}" for i in range(41)]
    assert [a for tag, a in page(make(names), tmp_path).tags if "heat" in (a.get("class") or "")] == []
    assert "Most confused" in page(make(names), tmp_path).texts


def test_most_confused_by_hand():
    """The worst pair comes first, with its share of the true class; right answers are no confusion."""
    matrix = np.array([[8, 2, 0], [0, 5, 0], [1, 3, 6]])
    head = HeadResult("label", "accuracy", {"accuracy": 0.76}, classes=("a", "b", "c"), confusion=matrix)
    pairs = [(pair.truth, pair.predicted, pair.count, round(pair.fraction, 9)) for pair in head.most_confused_pairs]
    assert pairs == [("c", "b", 3, 0.3), ("a", "b", 2, 0.2), ("c", "a", 1, 0.1)]


def test_refused_and_broken_files_are_named(tmp_path):
    """What failed is said in the headline and in its row, and numbers that mean nothing are not shown."""
    check = VerificationResult("tflite_int8", {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, "the file is empty")
    broken = ExportRow(check, "m.tflite")
    found = page(make(exports=(EXPORTS[0], broken)), tmp_path)
    assert "✗ 1 of 2 files refused" in found.text
    assert "the file is empty" in found.text
    assert "inf" not in found.texts
    assert "\u22121.000" not in found.text


def test_layers_in_float_are_named_in_part(tmp_path):
    """Six of them, then how many more."""
    names = tuple(f"norm{number}" for number in range(8))
    for most, said in (
        (0, "2 of 63 ops float"),
        (6, ": norm0, norm1, norm2, norm3, norm4, norm5"),
        (8, " and 2 more"),
    ):
        row = ExportRow(dataclasses.replace(INT8, float_layers=names[:most]), "m.tflite")
        text = page(make(exports=(row,)), tmp_path).text
        assert said in text
        assert ("norm5 and" in text) == (most == 8)
        assert "norm6" not in text


def test_surest_mistakes_first_and_no_more_than_24(tmp_path):
    """The mistakes worth a look are those of which the model was sure; one without a picture is still listed."""
    found = page(make(mistakes=30), tmp_path)
    pictures = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 24
    assert pictures[0].endswith("0029.png")
    spoken = Mistake(
        (SamplePreview(audio=b"RIFF", text="a fox"),), "clip.ogg", ("yes", "loud"), (), 0.9, (("yes", 0.1),)
    )
    found = page(dataclasses.replace(make(), mistakes=(spoken,)), tmp_path)
    assert found.count("img") == 0
    assert "clip.ogg" in found.text


def test_skipped_files_are_counted_whole_and_listed_in_part(tmp_path):
    """A folder of a thousand broken files makes no page of a thousand lines, but the count is true."""
    found = page(make(), tmp_path)
    assert "61 could not be used; the first 50" in found.text
    assert "photos/bad49.png" in found.text
    assert "photos/bad50.png" not in found.text


def test_curves_of_odd_phases(tmp_path):
    """One epoch, values that are not numbers, no validation and no metrics at all are drawn as far as they go."""
    nan = float("nan")
    phases = (
        PhaseResult("one", 1, 1, 1, {"loss": [0.5], "val_loss": [0.6]}, 0),
        PhaseResult("nan", 1, 1, 1, {"loss": [nan, nan], "val_loss": [0.5, nan], "val_score": [nan, 0.5]}, 1),
        PhaseResult("loss only", 1, 0, 0, {"loss": [0.5, 0.4]}),
        PhaseResult("nothing", 1, 0, 0, {}),
    )
    assert page(make(phases=phases), tmp_path).count("figure") == 1 + 1 + 2 + 1 + 24


def test_colours_follow_the_page(tmp_path):
    """No colour is fixed in a drawing, so that dark mode and print can choose theirs."""
    drawings = "".join(plot.svg for plot in curve("warm", 5, np.random.default_rng(0)).plots)
    assert re.search(r"(fill|stroke): #", drawings) is None
    assert "var(--series-0)" in drawings


def test_mean_score_is_not_drawn_twice():
    """With one head `val_score` is that head's score; with several it is a line of its own."""
    one = PhaseResult("tune", 1, 1, 1, {"val_score": [0.5, 0.6], "val_label/accuracy": [0.5, 0.6]})
    two = dataclasses.replace(one, metrics={**one.metrics, "val_tags/f1": [0.1, 0.2], "val_score": [0.3, 0.4]})
    assert [line.name for line in one.plots[0].lines] == ["label/accuracy"]
    assert sorted(line.name for line in two.plots[0].lines) == ["label/accuracy", "score", "tags/f1"]
