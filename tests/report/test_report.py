"""The report displays its content as text, loads nothing from the network, and is reproducible."""

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
    make_phase,
    make_report,
    render,
    render_bytes,
    single_label_head,
    tagging_head,
)
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.report.head_results import ClassScore, HeadResult
from tfx_finetune.report.page import ClassCount, DataSummary, ExportRow, HeadlineScore, Mistake, PhaseResult
from tfx_finetune.types.components import SamplePreview


def test_page_displays_every_section(tmp_path):
    """The page contains the headline and every class, file, phase and number in readable form."""
    report = make_report()
    page = render(report, tmp_path)
    texts = [
        "0.859",
        "accuracy on 192 test images",
        "95% confidence interval 0.810",
        "All 3 exported files are verified",
    ]
    texts += [
        *ANIMALS,
        "tflite_int8",
        "model_int8.tflite",
        "3.7 MB",
        "\u22120.016",
        "38.10 ms",
        "2.4e-07",
        "2 min 31 s",
    ]
    texts += ["frozen", "finetune", "16,653 of 3,393,421", "best epoch 5", "learning rate: maximum 0.01", "--seed=0"]
    texts += ["12 identical files stay in one split", "2.21.0", "2025-01-31 12:00 UTC", "balanced accuracy"]
    assert [text for text in texts if text not in page.text] == []
    assert page.count("img") == 24
    assert str(report.headline) == "0.859 accuracy on 192 test images (95% CI 0.810 to 0.903)"


@pytest.mark.parametrize(
    "report",
    [
        make_report(),
        make_report(ANIMALS[:2]),
        make_report([f"class {i}" for i in range(40)]),
        make_report([f"class {i}" for i in range(120)]),
        make_report(HOSTILE),
        make_report(heads=(tagging_head(ANIMALS, np.random.default_rng(0)),)),
    ],
    ids=["13", "2", "40", "120", "hostile", "tags"],
)
def test_page_is_well_formed_and_loads_nothing(report, tmp_path):
    """Tags are nested correctly, ids are unique, references are internal, and the page is smaller than 3 MB."""
    html = render_bytes(report, tmp_path).decode()
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            url = attributes.get(name, "#")
            assert url.startswith("data:") or url == "#" or url[1:] in ids, f"<{tag} {name}={url}>"
    assert {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "form"} == set()
    assert re.search(r"https?://|@import", html) is None
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in ids}
    assert len(html.encode()) < 3_000_000


@pytest.mark.parametrize("names", [ANIMALS, [f"class {i}" for i in range(120)], HOSTILE], ids=["13", "120", "hostile"])
def test_page_contains_every_class_name(names, tmp_path):
    """Class names appear unchanged, for any number of classes and any characters."""
    page = render(make_report(names), tmp_path)
    assert [name for name in names if name not in page.text] == []


def test_hostile_text_stays_text(tmp_path):
    """Markup in texts of the data or the machine never becomes an element or a script."""
    report, evil = make_report(), "<script>evil()</script><img src=x onerror=evil()>\"'"
    row = ExportRow(dataclasses.replace(KERAS, format=evil, failure_reason=evil), evil)
    data = DataSummary(evil, {evil: 3}, {evil: (ClassCount(evil, 1, 1, 1),)}, ((evil, evil),), warnings=(evil,))
    mistake = Mistake(report.mistakes[0].previews, evil, (evil,), (evil,), 0.5, ((evil, 0.5),), evil)
    hostile = dataclasses.replace(
        report,
        title=evil,
        command=evil,
        config=evil,
        created=evil,
        environment={evil: evil},
        headline=HeadlineScore(0.5, evil, 1, evil),
        data=data,
        phases=(
            dataclasses.replace(make_phase(evil, 3, np.random.default_rng(0)), metrics={evil: [1, 2], "loss": [1, 2]}),
        ),
        heads=(single_label_head([evil, evil], np.random.default_rng(0), evil),) * 2,
        mistakes=(mistake,),
        exports=(row,),
    )
    page = render(hostile, tmp_path)
    assert page.count("script") == 1
    assert page.count("img") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("evil()</script>") > 20


def test_file_name_that_is_not_utf8_is_escaped(tmp_path):
    """Linux file names are bytes; the report is written for names that are not UTF-8 as well."""
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    data = dataclasses.replace(make_report().data, skipped_samples=((name, "truncated"),))
    assert "caf\\udce9.png" in render(make_report(data=data), tmp_path).text


def test_same_report_gives_same_bytes(tmp_path):
    """The page contains no dates, random ids or memory addresses of its own, so that reports can be compared."""
    assert render_bytes(make_report(), tmp_path) == render_bytes(make_report(), tmp_path)


def test_report_without_optional_parts_has_no_empty_sections(tmp_path):
    """A run without phases, heads, mistakes and exports has a report."""
    report = make_report(
        mistakes=0, heads=(), phases=(), exports=(), data=DataSummary("photos", {"test": 4}), environment={}
    )
    page = render(dataclasses.replace(report, headline=HeadlineScore(1.0, "accuracy", 4)), tmp_path)
    assert "No files exported" in page.text
    headings = [text for text in ("Files", "Classes", "Mistakes", "Training") if text in page.texts]
    assert headings == []
    assert {"#result", "#data", "#reproduce"} == {a["href"] for tag, a in page.tags if tag == "a"}


def test_each_head_has_a_section(tmp_path):
    """A tagging head has no confusion matrix."""
    rng = np.random.default_rng(1)
    heads = (single_label_head(ANIMALS[:3], rng, "animal"), tagging_head(("wet", "furry", "rare"), rng))
    page = render(make_report(heads=heads), tmp_path)
    assert {"animal", "tags", "Average precision"} <= set(page.texts)
    assert [a["class"] for tag, a in page.tags if tag == "table" and "heat" in a.get("class", "")] == ["heat few"]


def test_segmentation_head_displays_iou_and_counts_pixels(tmp_path):
    """The table of classes has a column IoU, and counts are in pixels."""
    rows = (ClassScore("sky", 0.9, 0.8, 0.85, 4321, iou=0.739), ClassScore("sea", 0.0, 0.0, 0.0, 0, iou=0.0))
    head = HeadResult(
        *("mask", "miou", {"miou": 0.739}, None, ("sky", "sea"), np.array([[4000, 321], [0, 0]])),
        per_class=rows,
        count_unit="pixels",
    )
    page = render(make_report(heads=(head,)), tmp_path)
    assert {"IoU", "0.739", "Test pixels"} <= set(page.texts)
    assert "Columns: predicted class. Cells: number of test pixels." in page.text
    assert "IoU" not in render(make_report(), tmp_path).texts


def test_precision_recall_plot_displays_the_worst_classes(tmp_path):
    """The legend has the average precision of up to four classes, worst first, and the mean of all classes."""
    all_curves = {f"c{n}": [1.0] * n + [0.0] * (10 - n) for n in (6, 5, 4, 3, 2, 1)}
    legends = []
    for count in (1, 4, 6):
        curves = dict(list(all_curves.items())[-count:])
        head = HeadResult("objects", "map", {"map": 0.2, "ap50": 0.35}, classes=tuple(curves), curves=curves)
        page = render(make_report(heads=(head,), mistakes=0, phases=(), exports=()), tmp_path)
        texts = page.texts[page.texts.index("Precision and recall") :]
        legends.append([text for text in texts if re.fullmatch(r"c\d|mean of all classes| ?\d\.\d{3}", text)])
        assert (f"of the 4 worst of {count} classes" in page.text) == (count > 4)
        widths = [head.precision_recall_plot.svg.count(f"stroke-width: {width}") for width in (1.6, 2.4)]
        assert widths == [min(count, 4), count > 1]
    mean, worst = "mean of all classes", ["c1", " 0.100", "c2", " 0.200", "c3", " 0.300", "c4", " 0.400"]
    assert legends == [["c1", " 0.100"], [mean, " 0.250", *worst], [mean, " 0.350", *worst]]
    assert "Precision and recall" not in render(make_report(), tmp_path).texts


def test_confusion_matrix_is_omitted_for_more_than_40_classes(tmp_path):
    """The table of confused pairs replaces a confusion matrix that is too large to read."""
    names = [f"class {i}" for i in range(41)]
    assert [a for tag, a in render(make_report(names), tmp_path).tags if "heat" in (a.get("class") or "")] == []
    assert "Most confused classes" in render(make_report(names), tmp_path).texts


def test_most_confused_pairs_of_a_small_matrix():
    """Pairs are sorted by count and have the fraction of the true class; the diagonal is omitted."""
    matrix = np.array([[8, 2, 0], [0, 5, 0], [1, 3, 6]])
    head = HeadResult("label", "accuracy", {"accuracy": 0.76}, classes=("a", "b", "c"), confusion=matrix)
    pairs = [(pair.truth, pair.predicted, pair.count, round(pair.fraction, 9)) for pair in head.most_confused_pairs]
    assert pairs == [("c", "b", 3, 0.3), ("a", "b", 2, 0.2), ("c", "a", 1, 0.1)]


def test_failed_file_displays_its_reason_and_no_measurements(tmp_path):
    """The headline counts failed files; the row of a file has the reason and no meaningless numbers."""
    result = VerificationResult("tflite_int8", {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, "the file is empty")
    broken = ExportRow(result, "m.tflite")
    page = render(make_report(exports=(EXPORTS[0], broken)), tmp_path)
    assert "✗ 1 of 2 exported files failed verification" in page.text
    assert "the file is empty" in page.text
    assert "inf" not in page.texts
    assert "\u22121.000" not in page.text


def test_six_float_layers_are_named(tmp_path):
    """Further layers are counted."""
    names = tuple(f"norm{number}" for number in range(8))
    for count, text in (
        (0, "2 of 63 ops float"),
        (6, ": norm0, norm1, norm2, norm3, norm4, norm5"),
        (8, " and 2 more"),
    ):
        row = ExportRow(dataclasses.replace(INT8, float_layers=names[:count]), "m.tflite")
        page_text = render(make_report(exports=(row,)), tmp_path).text
        assert text in page_text
        assert ("norm5 and" in page_text) == (count == 8)
        assert "norm6" not in page_text


def test_mistakes_are_sorted_by_probability_and_limited_to_24(tmp_path):
    """A mistake without an image is listed as well."""
    page = render(make_report(mistakes=30), tmp_path)
    files = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len(files) == 24
    assert files[0].endswith("0029.png")
    mistake = Mistake(
        (SamplePreview(audio=b"RIFF", text="a fox"),), "clip.ogg", ("yes", "loud"), (), 0.9, (("yes", 0.1),)
    )
    page = render(dataclasses.replace(make_report(), mistakes=(mistake,)), tmp_path)
    assert page.count("img") == 0
    assert "clip.ogg" in page.text


def test_first_50_skipped_samples_are_listed(tmp_path):
    """The number of skipped samples counts all of them."""
    page = render(make_report(), tmp_path)
    assert "61 skipped samples, the first 50 listed" in page.text
    assert "photos/bad49.png" in page.text
    assert "photos/bad50.png" not in page.text


def test_learning_curves_with_missing_values(tmp_path):
    """One epoch, NaN values, missing validation and missing metrics are drawn as far as possible."""
    nan = float("nan")
    phases = (
        PhaseResult("one", 1, 1, 1, {"loss": [0.5], "val_loss": [0.6]}, 0),
        PhaseResult("nan", 1, 1, 1, {"loss": [nan, nan], "val_loss": [0.5, nan], "val_score": [nan, 0.5]}, 1),
        PhaseResult("loss only", 1, 0, 0, {"loss": [0.5, 0.4]}),
        PhaseResult("nothing", 1, 0, 0, {}),
    )
    assert render(make_report(phases=phases), tmp_path).count("figure") == 1 + 1 + 2 + 1 + 24


def test_plots_use_css_colors(tmp_path):
    """SVG contains no fixed colors, so that the page defines them for light mode, dark mode and print."""
    svg = "".join(plot.svg for plot in make_phase("frozen", 5, np.random.default_rng(0)).plots)
    assert re.search(r"(fill|stroke): #", svg) is None
    assert "var(--series-0)" in svg


def test_mean_score_is_drawn_only_for_several_heads():
    """With one head `val_score` equals the metric of the head; with several heads it has its own line."""
    one = PhaseResult("finetune", 1, 1, 1, {"val_score": [0.5, 0.6], "val_label/accuracy": [0.5, 0.6]})
    two = dataclasses.replace(one, metrics={**one.metrics, "val_tags/f1": [0.1, 0.2], "val_score": [0.3, 0.4]})
    assert [line.name for line in one.plots[0].lines] == ["label/accuracy"]
    assert sorted(line.name for line in two.plots[0].lines) == ["label/accuracy", "score", "tags/f1"]
