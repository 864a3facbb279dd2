"""An invented report with every section, and a parser for its page."""

import dataclasses
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.report.head_results import ClassScore, HeadResult
from tfx_finetune.report.html import write_report
from tfx_finetune.report.page import ClassCount, DataSummary, ExportRow, HeadlineScore, Mistake, PhaseResult, Report
from tfx_finetune.types.components import SamplePreview

ANIMALS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen", "ibis", "jay", "koi", "lynx", "mole")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE",
    "{{ 7 * 7 }}",
    "</bdi></table><h1>out",
    "&amp; &lt;b&gt;",
    "قطة صغيرة",
    "三花猫",
    "\u202egnp.exe",
    "$x_1^2$ \\frac",
    "a\nb\tc",
    "🦊 fox",
    "x" * 300,
)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Collects the tags and texts of a page and asserts that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has a duplicate attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes no tag"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return "\n".join(self.texts)

    def count(self, tag: str) -> int:
        """The number of elements with this tag."""
        return sum(name == tag for name, _ in self.tags)


def make_noise_image(rng, format="PNG", side=160):
    """An encoded image of noise, the largest file for its shape."""
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def make_confusion_matrix(classes, rng, samples=15):
    """The confusion matrix of a model with an accuracy of about 5/6 that confuses neighboring classes."""
    matrix = np.diag(rng.integers(samples // 2, samples, classes))
    for row in range(classes):
        matrix[row, (row + 1) % classes] += rng.integers(0, 4)
        matrix[row, rng.integers(classes)] += 1
    return matrix


def single_label_head(names, rng, name="label"):
    """The result of a classification head, with scores computed from an invented confusion matrix."""
    matrix = make_confusion_matrix(len(names), rng)
    recall = matrix.diagonal() / matrix.sum(1)
    precision = matrix.diagonal() / np.maximum(matrix.sum(0), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    rows = zip(names, precision, recall, f1, matrix.sum(1), strict=True)
    return HeadResult(
        name=name,
        monitor="accuracy",
        scores={"accuracy": matrix.trace() / matrix.sum(), "balanced_accuracy": recall.mean(), "log_loss": 0.51234},
        interval=(0.79, 0.9),
        classes=tuple(names),
        confusion=matrix,
        per_class=tuple(ClassScore(n, float(p), float(r), float(f), int(s)) for n, p, r, f, s in rows),
    )


def tagging_head(names, rng, name="tags"):
    """The result of a tagging head: average precision per class, no confusion matrix, a class without samples."""
    values = rng.uniform(0.4, 1, (len(names), 4))
    rows = [ClassScore(n, *map(float, v[:3]), 12, float(v[3])) for n, v in zip(names, values, strict=True)]
    rows[-1] = ClassScore(names[-1], 0.0, 0.0, 0.0, 0, 0.0)
    return HeadResult(name, "mean_average_precision", {"mean_average_precision": 0.71}, per_class=tuple(rows))


def make_phase(phase, epochs, rng, trained=16_653, best_epoch=None):
    """The result of a phase with falling losses and rising scores."""
    falling = np.exp(-np.arange(epochs) / max(epochs / 4, 1)) + rng.normal(0, 0.02, epochs)
    metrics = {
        "loss": list(0.4 + falling),
        "val_loss": list(0.6 + 0.9 * falling),
        "accuracy": list(0.95 - 0.5 * falling),
        "val_accuracy": list(0.86 - 0.4 * falling),
        "val_score": list(0.86 - 0.4 * falling),
        "learning_rate": list(0.01 * (1 - np.arange(epochs) / epochs)),
    }
    return PhaseResult(phase, 41.5, trained, 3_393_421, metrics, epochs - 1 if best_epoch is None else best_epoch)


KERAS = VerificationResult("keras", {}, 0.859, 0.0, 0.0, 0.0, 2.4e-7, 38.1, "", 1.0, 13_912_334, 12_700_000)
HALF = VerificationResult(
    "tflite_float16", {}, 0.859, 0.0, -0.005, 0.006, 0.0021, 2.3, "", 1.0, 6_812_004, 6_300_000, 0.0, 4.1, 45.2, 63, 63
)
INT8 = VerificationResult(
    "tflite_int8",
    {},
    0.844,
    0.0156,
    -0.0021,
    0.033,
    0.0613,
    1.6,
    "",
    0.979,
    3_710_448,
    3_100_000,
    0.5,
    2.9,
    28.4,
    63,
    2,
)
EXPORTS = (
    ExportRow(KERAS, "model.keras"),
    ExportRow(HALF, "model_float16.tflite"),
    ExportRow(INT8, "model_int8.tflite"),
)


def make_report(names=ANIMALS, seed=0, heads=None, mistakes=24, **changes):
    """The full report of an invented run."""
    rng = np.random.default_rng(seed)
    heads = (single_label_head(names, rng),) if heads is None else heads
    counts = tuple(ClassCount(n, *map(int, rng.integers(3, 40, 3))) for n in names)
    mistake_records = [
        Mistake(
            (SamplePreview(image=make_noise_image(rng, ("PNG", "JPEG")[i % 2])),),
            f"photos/{names[i % len(names)]}/{i:04}.png",
            (names[i % len(names)],),
            (names[(i + 1) % len(names)],),
            score=0.4 + i / 50,
            top_scores=tuple(
                (names[(i + j + 1) % len(names)], (0.4 + i / 50) / (j + 1)) for j in range(min(5, len(names)))
            ),
        )
        for i in range(mistakes)
    ]
    report = Report(
        title="photos",
        command="python -m tfx_finetune.train --data=photos/ --exports='keras_file(), tflite()'",
        config="--data=photos/\n--seed=0\n",
        created="2025-01-31 12:00 UTC",
        seconds=151.2,
        environment={"python": "3.11.7", "tensorflow": "2.21.0", "device": "cpu", "threads": "2"},
        seed=0,
        headline=HeadlineScore(0.8594, "accuracy", 192, "images", interval=(0.81, 0.903)),
        data=DataSummary(
            source="photos",
            splits={"train": 519, "val": 58, "test": 192},
            classes={"label": counts},
            skipped_samples=tuple((f"photos/bad{i}.png", "not an image") for i in range(61)),
            num_duplicates=12,
            warnings=("12 identical files stay in one split",),
        ),
        phases=(make_phase("frozen", 12, rng), make_phase("finetune", 8, rng, 1_203_456, 4)),
        heads=heads,
        mistakes=tuple(mistake_records),
        exports=EXPORTS,
    )
    return dataclasses.replace(report, **changes)


def render_bytes(report, tmp_path):
    """The bytes of the rendered report."""
    write_report(tmp_path / "report.html", report)
    return (tmp_path / "report.html").read_bytes()


def render(report, tmp_path):
    """The rendered report, parsed."""
    return Page(render_bytes(report, tmp_path).decode())
