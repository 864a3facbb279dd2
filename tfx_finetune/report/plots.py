"""Curves as inline SVG that takes its colours from the page, so that one drawing suits light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Mapping[str, Sequence[float]]

# What Matplotlib draws in the first colour becomes the second, which the page's style sheet defines.
_TEXT, _RULE = "#000001", "#000002"
_LINE_COLORS = ("#000003", "#000004", "#000005", "#000006")
_COLORS = {_TEXT: "currentColor", _RULE: "var(--line)"} | {
    colour: f"var(--series-{position})" for position, colour in enumerate(_LINE_COLORS)
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
    """One line of a plot.

    Attributes:
        name: The metric, without `val_`.
        validation: Whether it was measured on the validation samples.
        values: One value an epoch.
        colour: Position in the page's series colours, -1 for the text's; training and validation of a metric share it.
    """

    name: str
    is_validation: bool
    values: tuple[float, ...]
    color: int

    @property
    def mean(self) -> float:
        """Of its values."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Plot:
    """A drawing, and the lines that its legend explains."""

    title: str
    svg: str
    lines: tuple[Line, ...]


def plot_learning_curves(phase: str, metrics: Metrics, best_epoch: int) -> tuple[Plot, ...]:
    """Draws the loss and the scores of a phase, one plot each.

    Args:
        phase: Its name, which keeps the ids of two drawings on one page apart.
        metrics: One value an epoch by name: `loss`, `val_loss`, and scores with `val_` before those of validation.
        best_epoch: The epoch to mark, counted from 0; negative for none.

    Returns:
        The plots that have something to show. Learning rate and the losses of single heads are left out.
    """
    losses = {name: values for name, values in metrics.items() if name in ("loss", "val_loss")}
    scores = {name: values for name, values in metrics.items() if not name.endswith(("loss", "learning_rate"))}
    drawn = {"loss": _make_lines(losses), "score": _make_lines(_drop_duplicate_score(scores))}
    return tuple(
        Plot(title, _render_curves(f"{phase}/{title}", lines, best_epoch), lines)
        for title, lines in drawn.items()
        if lines
    )


def plot_precision_recall(head: str, curves: Mapping[str, Sequence[float]]) -> Plot:
    """Draws precision over recall, the mean of all classes and the worst of them: as many as there are colours.

    Args:
        head: Its name, which keeps the ids of two drawings on one page apart.
        curves: By class, precision at recalls that rise evenly from 0 to 1; at least one.
    """
    worst = sorted(curves, key=lambda name: np.mean(curves[name]))[: len(_LINE_COLORS)]
    lines = [Line(name, True, tuple(curves[name]), colour) for colour, name in enumerate(worst)]
    mean = Line("mean of all", True, tuple(np.mean(list(curves.values()), 0).tolist()), -1)
    lines = [mean, *lines] if len(curves) > 1 else lines
    return Plot(
        "precision and recall",
        _render_svg(f"{head}/curves", (7, 3.2), lambda axes: _draw_precision_recall(axes, lines)),
        tuple(lines),
    )


def _draw_precision_recall(axes: "Axes", lines: Sequence[Line]) -> None:
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    for line in reversed(lines):
        colour, width = (_LINE_COLORS[line.color], 1.6) if line.color >= 0 else (_TEXT, 2.4)
        axes.plot(np.linspace(0, 1, len(line.values)), line.values, color=colour, linewidth=width)


def plot_trade_off(points: Mapping[str, tuple[float, float, float]], score: str) -> str:
    """Draws files by size and score as SVG, the slower the larger.

    Args:
        points: `(bytes, score, milliseconds)` by name.
        score: What the score is called.
    """
    return _render_svg("files", (7, 3), lambda axes: _draw_trade_off(axes, points, score))


def _draw_trade_off(axes: "Axes", points: Mapping[str, tuple[float, float, float]], score: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlabel("size, MB")
    axes.set_ylabel(score)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    sizes, scores, times = (np.array(column) for column in zip(*points.values(), strict=True))
    sizes = sizes / 1e6
    room = max(np.ptp(scores) / 3, 0.02)
    axes.scatter(sizes, scores, s=30 + 300 * times / times.max(), color=_LINE_COLORS[0], alpha=0.45, linewidths=0)
    axes.set_xlim(sizes.min() / 1.8, sizes.max() * 1.8)
    axes.set_ylim(scores.min() - 0.6 * room, scores.max() + 2 * room)
    # Names of files of about one size and score are written under one another.
    named: dict[tuple[float, float], list[str]] = {}
    for name, size, value, time in zip(points, sizes, scores, times, strict=True):
        near = (at for at in named if abs(np.log(at[0] / size)) < 0.3 and abs(at[1] - value) < room / 2)
        named.setdefault(next(near, (size, value)), []).append(f"{name}, {time:.1f} ms")
    for at, lines in named.items():
        axes.annotate("\n".join(lines), at, (0, 12), textcoords="offset points", ha="center", color=_TEXT)


def _make_lines(metrics: Metrics) -> tuple[Line, ...]:
    """The metrics that have values, as many as there are colours."""
    named = [name for name, values in metrics.items() if len(values)]
    bases = list(dict.fromkeys(name.removeprefix("val_") for name in named))[: len(_LINE_COLORS)]
    return tuple(
        Line(base, base != name, tuple(metrics[name]), bases.index(base))
        for name in named
        if (base := name.removeprefix("val_")) in bases
    )


def _drop_duplicate_score(scores: Metrics) -> Metrics:
    """Leaves out `val_score`, the mean over heads, where it is the score of the only head."""
    others = [list(values) for name, values in scores.items() if name != "val_score"]
    copied = list(scores.get("val_score", ())) in others
    return {name: values for name, values in scores.items() if name != "val_score" or not copied}


def _render_svg(id_salt: str, size: tuple[float, float], draw: Callable[["Axes"], None]) -> str:
    """A drawing as inline SVG; `salt` keeps the ids of two on one page apart."""
    # Matplotlib takes half a second to import. The Figure alone keeps clear of pyplot's global state and displays.
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE | {"svg.hashsalt": id_salt}]):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return _inline_svg(buffer.getvalue())


def _render_curves(id_salt: str, lines: Sequence[Line], best_epoch: int) -> str:
    return _render_svg(id_salt, (5, 2.6), lambda axes: _draw_curves(axes, lines, best_epoch))


def _draw_curves(axes: "Axes", lines: Sequence[Line], best_epoch: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03)
    if best_epoch >= 0:
        axes.axvline(best_epoch + 1, color=_TEXT, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.6)
    for line in lines:
        _draw_line(axes, line, best_epoch)


def _draw_line(axes: "Axes", line: Line, best_epoch: int) -> None:
    epochs, colour = range(1, len(line.values) + 1), _LINE_COLORS[line.color]
    marker = "o" if len(line.values) == 1 else ""
    dashes, width = ("-", 2.0) if line.is_validation else ((0, (4, 2)), 1.4)
    axes.plot(epochs, line.values, color=colour, marker=marker, markersize=4, linestyle=dashes, linewidth=width)
    if line.is_validation and 0 <= best_epoch < len(line.values):
        axes.plot([best_epoch + 1], [line.values[best_epoch]], color=colour, marker="o", markersize=6)


def _inline_svg(svg: str) -> str:
    """What stands in a page: colours and font come from there; no prologue, metadata, addresses or idle ids."""
    box = re.search(r'viewBox="[^"]+"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| font-family: [^;]*;", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    used = set(re.findall(r"#(\w+)[\")]", body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)
    for drawn, shown in _COLORS.items():
        body = body.replace(drawn, shown)
    return f'<svg {box[0] if box else ""} role="img">{body}'


def plot_trials(trials: Sequence[tuple[int, float, Mapping[str, Any]]]) -> str:
    """Draws a search as SVG: the score of each trial and the best so far, and the score by each option.

    Args:
        trials: `(number, score, options)` of every finished trial.
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
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def plot_learning_rates(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]]) -> str:
    """Draws range tests as SVG, one a phase: the loss over the learning rate, and the rate that is proposed.

    Args:
        curves: `(rates, losses, proposed rate)` by phase.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 3.2), layout="constrained")
    for axes, (name, (rates, losses, proposed)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.semilogx(rates, losses)
        axes.axvline(proposed, linestyle="--", linewidth=1, color="grey")
        axes.set_title(f"{name}: {proposed:.1e}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()
