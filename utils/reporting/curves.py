"""Curves of a run, and one plot that compares all runs of a dataset."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display and no MPLBACKEND is ever asked for
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from utils.runtime.atomic import atomic_write

History = Sequence[Mapping[str, float | None]]  # rows of history.csv

# Colours that stay apart for colour-blind readers (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
GREY = "#5F6368"


def plot_run(title: str, history: History, accuracy: Path, loss: Path, test: Mapping[str, float] | None) -> None:
    """Write the accuracy and the loss curve of one run; `test` holds the final `top1` and `loss`."""
    for path, key, label, unit in ((accuracy, "top1", "top-1 accuracy", " (%)"), (loss, "loss", "loss", "")):
        figure, axes = _figure(f"{title}: {label}", label + unit)
        train = "training (augmented)" if key == "top1" else "training objective"
        held_out = "validation" if key == "top1" else "validation cross-entropy"
        _line(axes, history, f"train_{key}", COLOURS[1], train)
        _line(axes, history, f"val_{key}", COLOURS[0], held_out)
        if test is not None:
            text = f"test, last epoch: {test[key]:.2f}" + (" %" if key == "top1" else "")
            axes.plot(
                len(history), test[key], "D", color="#000000", markersize=5, label=text, clip_on=False, zorder=4
            )
        _finish(figure, axes, path)


def plot_comparison(title: str, runs: Mapping[str, Sequence[History]], path: Path) -> bool:
    """Write validation accuracy over epochs, a line for each row of the table: the mean of its seeds.

    Several seeds are drawn as a band from the lowest to the highest. Returns False, and writes nothing,
    where no run held out validation images.
    """
    figure, axes = _figure(title, "validation top-1 accuracy (%)")
    lowest = []
    for number, (name, histories) in enumerate(runs.items()):
        curves = [{row["epoch"]: row["val_top1"] for row in history} for history in histories]
        epochs = [epoch for epoch in curves[0] if all(curve.get(epoch) is not None for curve in curves)]
        if not epochs:
            continue
        values = [[curve[epoch] for curve in curves] for epoch in epochs]
        means = [sum(value) / len(value) for value in values]
        colour = COLOURS[number % len(COLOURS)]
        style = {"marker": "o", "markersize": 3} if len(means) < 30 else {}
        axes.plot(epochs, means, color=colour, linewidth=1.8, label=f"{name}: {means[-1]:.1f} %", **style)
        if len(curves) > 1:
            axes.fill_between(
                epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0
            )
        lowest.append(means[min(len(means) - 1, len(means) // 4)])
    if not lowest:
        return False
    # The first epochs are far below the rest; what matters is decided above them.
    axes.set_ylim(bottom=max(0, min(lowest) - 5))
    figure.set_figheight(3.6 + 0.2 * len(lowest))
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")  # within, many rows would hide the curves
    save(figure, path)
    return True


def plot_heat_map(title: str, values: Mapping[tuple[float, float], float], path: Path) -> None:
    """Write `values` (percent) by (temperature, alpha) as a grid; a frame marks the highest."""
    temps, alphas = (sorted(set(axis)) for axis in zip(*values, strict=True))
    grid = [[values.get((temp, alpha), math.nan) for temp in temps] for alpha in alphas]
    size = 2.2 + 0.8 * len(temps), 1.8 + 0.6 * len(alphas)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=10)
    image = axes.imshow(grid, cmap="Blues", aspect="auto")
    dress(axes, "temperature T", "alpha")
    axes.grid(visible=False)
    axes.set_xticks(range(len(temps)), [f"{temp:g}" for temp in temps])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    middle = (min(values.values()) + max(values.values())) / 2
    for (temp, alpha), value in values.items():
        colour = "white" if value > middle else "#202124"
        axes.text(temps.index(temp), alphas.index(alpha), f"{value:.2f}", ha="center", va="center", color=colour)
    temp, alpha = max(values, key=values.get)
    corner = temps.index(temp) - 0.5, alphas.index(alpha) - 0.5
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.5))
    figure.colorbar(image, ax=axes).outline.set_visible(False)
    save(figure, path)


def _figure(title: str, label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=10)
    dress(axes, "epoch", label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def dress(axes: Axes, x: str, y: str) -> None:
    """The style of all plots: grey axis labels `x` and `y`, a light grid, no box."""
    axes.set_xlabel(x, color=GREY)
    axes.set_ylabel(y, color=GREY)
    axes.grid(axis="y", color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#C4C7CB")
    axes.tick_params(colors=GREY, length=0)


def _line(axes: Axes, history: History, column: str, colour: str, label: str) -> None:
    points = [(row["epoch"], row[column]) for row in history if row[column] is not None]
    if points:
        style = {"marker": "o", "markersize": 3.5} if len(points) < 30 else {}
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, label=label, **style)


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)
