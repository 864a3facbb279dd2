"""Plots as inline SVG; the CSS of the page defines their colors, so that light and dark mode share one drawing."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Mapping[str, Sequence[float]]
"""One value per epoch, by metric name."""

# Matplotlib draws in these placeholder colors; `_inline_svg` replaces them with CSS variables of the page.
_TEXT, _RULE = "#000001", "#000002"
_LINE_COLORS = ("#000003", "#000004", "#000005", "#000006")
_CSS_COLORS = {_TEXT: "currentColor", _RULE: "var(--line)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_LINE_COLORS)
}
_STYLE = {
    "svg.fonttype": "none",
    "axes.edgecolor": _RULE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "font.size": 9,
}


@dataclass(frozen=True)
class Line:
    """Line of a plot.

    Attributes:
        name: Name in the legend: the metric without `val_`, or the class.
        is_validation: True if the values were measured on validation samples.
        values: One value per epoch or per recall level.
        color: int. Index of the series color, -1 for the text color. Training and validation share a color.
    """

    name: str
    is_validation: bool
    values: tuple[float, ...]
    color: int

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Plot:
    """Plot with its legend.

    Attributes:
        title: Title of the plot.
        svg: Inline SVG.
        lines: Lines, in the order of the legend.
    """

    title: str
    svg: str
    lines: tuple[Line, ...]


def plot_learning_curves(phase: str, metrics: Metrics, best_epoch: int) -> tuple[Plot, ...]:
    """Draw the learning curves of a phase: one plot of the loss and one of the scores.

    Args:
        phase: Name of the phase; it makes the SVG ids unique on the page.
        metrics: One value per epoch by name: `loss`, `val_loss`, and metrics with and without `val_`.
        best_epoch: int. Epoch (from 0) to mark; negative for none.

    Returns:
        The plots that have values. The learning rate and the losses of single heads are not drawn.
    """
    losses = {name: values for name, values in metrics.items() if name in ("loss", "val_loss")}
    scores = {name: values for name, values in metrics.items() if not name.endswith(("loss", "learning_rate"))}
    lines_by_title = {"loss": _make_lines(losses), "score": _make_lines(_drop_duplicate_score(scores))}
    return tuple(
        Plot(title, _render_curves(f"{phase}/{title}", lines, best_epoch), lines)
        for title, lines in lines_by_title.items()
        if lines
    )


def plot_precision_recall(head: str, curves: Mapping[str, Sequence[float]]) -> Plot:
    """Draw precision over recall: the mean of all classes, and the classes with the lowest average precision.

    Args:
        head: Name of the head; it makes the SVG ids unique on the page.
        curves: Precision at evenly spaced recalls from 0 to 1, by class; at least one class.
    """
    worst = sorted(curves, key=lambda name: np.mean(curves[name]))[: len(_LINE_COLORS)]
    lines = [Line(name, True, tuple(curves[name]), color) for color, name in enumerate(worst)]
    mean = Line("mean of all classes", True, tuple(np.mean(list(curves.values()), 0).tolist()), -1)
    lines = [mean, *lines] if len(curves) > 1 else lines
    return Plot(
        "precision and recall",
        _render_svg(f"{head}/curves", (7, 3.2), lambda axes: _draw_precision_recall(axes, lines)),
        tuple(lines),
    )


def _draw_precision_recall(axes: "Axes", lines: Sequence[Line]) -> None:
    """Draw the lines of a precision-recall plot, the mean on top."""
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    for line in reversed(lines):
        color, width = (_LINE_COLORS[line.color], 1.6) if line.color >= 0 else (_TEXT, 2.4)
        axes.plot(np.linspace(0, 1, len(line.values)), line.values, color=color, linewidth=width)


def plot_trade_off(points: Mapping[str, tuple[float, float, float]], metric: str) -> str:
    """Draw exported files by size and score as SVG; the area of a point grows with the latency.

    Args:
        points: `(bytes, score, latency in milliseconds)` by format.
        metric: Label of the score axis.
    """
    return _render_svg("files", (7, 3), lambda axes: _draw_trade_off(axes, points, metric))


def _draw_trade_off(axes: "Axes", points: Mapping[str, tuple[float, float, float]], metric: str) -> None:
    """Draw one labeled point per file."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlabel("size, MB")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    sizes, scores, times = (np.array(column) for column in zip(*points.values(), strict=True))
    sizes = sizes / 1e6
    margin = max(np.ptp(scores) / 3, 0.02)
    axes.scatter(sizes, scores, s=30 + 300 * times / times.max(), color=_LINE_COLORS[0], alpha=0.45, linewidths=0)
    axes.set_xlim(sizes.min() / 1.8, sizes.max() * 1.8)
    axes.set_ylim(scores.min() - 0.6 * margin, scores.max() + 2 * margin)
    # Points that overlap share one label with a line for each file.
    labels: dict[tuple[float, float], list[str]] = {}
    for name, size, score, time in zip(points, sizes, scores, times, strict=True):
        near = (xy for xy in labels if abs(np.log(xy[0] / size)) < 0.3 and abs(xy[1] - score) < margin / 2)
        labels.setdefault(next(near, (size, score)), []).append(f"{name}, {time:.1f} ms")
    for xy, lines in labels.items():
        axes.annotate("\n".join(lines), xy, (0, 12), textcoords="offset points", ha="center", color=_TEXT)


def _make_lines(metrics: Metrics) -> tuple[Line, ...]:
    """Return the lines of the metrics that have values, one color per metric, up to the number of colors."""
    names = [name for name, values in metrics.items() if len(values)]
    bases = list(dict.fromkeys(name.removeprefix("val_") for name in names))[: len(_LINE_COLORS)]
    return tuple(
        Line(base, base != name, tuple(metrics[name]), bases.index(base))
        for name in names
        if (base := name.removeprefix("val_")) in bases
    )


def _drop_duplicate_score(scores: Metrics) -> Metrics:
    """Drop `val_score`, the mean over heads, if it equals the score of the only head."""
    others = [list(values) for name, values in scores.items() if name != "val_score"]
    is_duplicate = list(scores.get("val_score", ())) in others
    return {name: values for name, values in scores.items() if name != "val_score" or not is_duplicate}


def _render_svg(id_salt: str, size: tuple[float, float], draw: Callable[["Axes"], None]) -> str:
    """Return a drawing as inline SVG; `id_salt` makes its ids unique on the page."""
    # Matplotlib takes half a second to import. Figure, unlike pyplot, needs no global state and no display.
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE | {"svg.hashsalt": id_salt}]):  # ignores the user's matplotlibrc
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        svg = _to_svg(figure, transparent=True)
    return _inline_svg(svg)


def _render_curves(id_salt: str, lines: Sequence[Line], best_epoch: int) -> str:
    """Return the learning curves as inline SVG."""
    return _render_svg(id_salt, (5, 2.6), lambda axes: _draw_curves(axes, lines, best_epoch))


def _draw_curves(axes: "Axes", lines: Sequence[Line], best_epoch: int) -> None:
    """Draw the lines over the epochs and a vertical rule at the best epoch."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03)
    if best_epoch >= 0:
        axes.axvline(best_epoch + 1, color=_TEXT, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.6)
    for line in lines:
        _draw_line(axes, line, best_epoch)


def _draw_line(axes: "Axes", line: Line, best_epoch: int) -> None:
    """Draw one learning curve: solid for validation, dashed for training."""
    epochs, color = range(1, len(line.values) + 1), _LINE_COLORS[line.color]
    marker = "o" if len(line.values) == 1 else ""
    dashes, width = ("-", 2.0) if line.is_validation else ((0, (4, 2)), 1.4)
    axes.plot(epochs, line.values, color=color, marker=marker, markersize=4, linestyle=dashes, linewidth=width)
    if line.is_validation and 0 <= best_epoch < len(line.values):
        axes.plot([best_epoch + 1], [line.values[best_epoch]], color=color, marker="o", markersize=6)


def _inline_svg(svg: str) -> str:
    """Return an SVG document as an inline element with CSS colors; remove prologue, metadata, fonts and unused ids."""
    view_box = re.search(r'viewBox="[^"]+"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| font-family: [^;]*;", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    used_ids = set(re.findall(r"#(\w+)[\")]", body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used_ids else "", body)
    for placeholder, css_color in _CSS_COLORS.items():
        body = body.replace(placeholder, css_color)
    return f'<svg {view_box[0] if view_box else ""} role="img">{body}'


def plot_trials(trials: Sequence[tuple[int, float, Mapping[str, Any]]]) -> str:
    """Draw a hyper-parameter search as SVG: the score of each trial, the best score so far, and the score by option.

    Args:
        trials: `(trial number, validation score, options)` of every finished trial.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for _, _, options in trials for name in options))
    figure = Figure(figsize=(4 * (len(names) + 1), 3.2), layout="constrained")
    numbers, scores, _ = zip(*trials, strict=True)
    axes = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    axes[0].plot(numbers, scores, "o", markersize=4)
    axes[0].plot(numbers, [max(scores[: i + 1]) for i in range(len(scores))], linewidth=1)
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel("validation score")
    for name, plot in zip(names, axes[1:], strict=True):
        values: list[Any] = [options.get(name) for _, _, options in trials]
        numeric = all(isinstance(value, (int, float)) for value in values)
        plot.plot(values if numeric else [str(value) for value in values], scores, "o", markersize=4)
        plot.set_xlabel(name)
        if numeric and min(values) > 0 and max(values) > 20 * min(values):
            plot.set_xscale("log")
    return _to_svg(figure)


def plot_learning_rates(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]]) -> str:
    """Draw learning rate range tests as SVG: the loss over the learning rate, and the suggested learning rate.

    Args:
        curves: `(learning rates, losses, suggested learning rate)` by phase.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 3.2), layout="constrained")
    for axes, (name, (rates, losses, suggested)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.semilogx(rates, losses)
        axes.axvline(suggested, linestyle="--", linewidth=1, color="gray")
        axes.set_title(f"{name}: {suggested:.1e}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
    return _to_svg(figure)


def _to_svg(figure: "Figure", transparent: bool = False) -> str:
    """Return a figure as an SVG document."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=transparent)
    return buffer.getvalue()
