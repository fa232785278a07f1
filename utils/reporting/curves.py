"""Curves of a run, and one plot that compares all runs of a dataset."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from utils.reporting.style import COLOURS, DARK, GREY, HALF, MARKERS, WHOLE, new_figure, save, styled, styles

History = Sequence[Mapping[str, float | None]]  # rows of history.csv


class Curves(NamedTuple):
    """What the comparison shows of a row of the table."""

    title: str
    role: str
    histories: Sequence[History]  # one a seed


@styled
def plot_run(
    title: str, role: str, history: History, accuracy: Path, loss: Path, test: Mapping[str, float] | None
) -> None:
    """Write the accuracy and the loss curve of one run; `test` holds the final `top1` and `loss`.

    The objective of training and the cross-entropy on held-out images are different functions: each has axes of
    its own.
    """
    colour = styles([role])[0].colour
    epochs = len(history)
    figure = new_figure(f"{title}: top-1 accuracy (%)", HALF, 3.4)
    axes = figure.add_subplot(xlabel="epoch")
    _line(axes, history, "train_top1", "training (augmented)", color=GREY, linestyle="--")
    _line(axes, history, "val_top1", "validation", color=colour)
    if test is not None:
        _test(axes, epochs, test["top1"], f"test: {test['top1']:.2f} %")
    _whole_epochs(axes)
    figure.legend(loc="outside lower left", ncols=2)
    save(figure, accuracy)

    figure = new_figure(f"{title}: loss", HALF, 3.4)
    held_out, objective = figure.subplots(2, 1, sharex=True)
    held_out.set_title("validation cross-entropy (nats)")
    _line(held_out, history, "val_loss", color=colour)
    if test is not None:
        _test(held_out, epochs, test["loss"], f"test: {test['loss']:.3f}")
        held_out.legend()
    objective.set_title("training objective")
    objective.set_xlabel("epoch")
    _line(objective, history, "train_loss", color=GREY, linestyle="--")
    _whole_epochs(objective)
    save(figure, loss)


@styled
def plot_comparison(title: str, rows: Sequence[Curves], path: Path) -> bool:
    """Write validation accuracy over epochs, a line for each row of the table: the mean of its seeds.

    Several seeds are drawn as a band from the lowest to the highest. Returns False, and writes nothing,
    where no run held out validation images.
    """
    figure = new_figure(title, WHOLE, 3.6)
    axes = figure.add_subplot(xlabel="epoch", ylabel="validation top-1 accuracy (%)")
    lowest = []
    for row, style in zip(rows, styles([row.role for row in rows]), strict=True):
        curves = [{record["epoch"]: record["val_top1"] for record in history} for history in row.histories]
        epochs = [epoch for epoch in curves[0] if all(curve.get(epoch) is not None for curve in curves)]
        if not epochs:
            continue
        values = [[curve[epoch] for curve in curves] for epoch in epochs]
        means = [sum(value) / len(value) for value in values]
        line = {"color": style.colour, "marker": MARKERS[style.marker], "markersize": 4}
        line |= {"linestyle": "--" if style.dashed else "-", "markevery": math.ceil(len(means) / 20)}
        axes.plot(epochs, means, label=f"{row.title}: {means[-1]:.1f} %", **line)
        if len(curves) > 1:
            low, high = [min(value) for value in values], [max(value) for value in values]
            axes.fill_between(epochs, low, high, color=style.colour, alpha=0.15, lw=0)
        lowest.append(means[min(len(means) - 1, len(means) // 4)])
    if not lowest:
        return False
    # The first epochs are far below the rest; what matters is decided above them.
    axes.set_ylim(bottom=max(0, min(lowest) - 5))
    _whole_epochs(axes)
    figure.set_figheight(3.6 + 0.2 * len(lowest))
    figure.legend(loc="outside lower left")  # within, many rows would hide the curves
    save(figure, path)
    return True


@styled
def plot_heat_map(title: str, values: Mapping[tuple[float, float], float], path: Path) -> None:
    """Write `values` (percent) by (temperature, alpha) as a grid; a frame marks the highest."""
    temps, alphas = (sorted(set(axis)) for axis in zip(*values, strict=True))
    grid = [[values.get((temp, alpha), math.nan) for temp in temps] for alpha in alphas]
    figure = new_figure(title, 2.2 + 0.8 * len(temps), 1.8 + 0.6 * len(alphas))
    axes = figure.add_subplot(xlabel="temperature T", ylabel="alpha")
    image = axes.imshow(grid, cmap="Blues", aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(temps)), [f"{temp:g}" for temp in temps])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    middle = (min(values.values()) + max(values.values())) / 2
    for (temp, alpha), value in values.items():
        colour = "white" if value > middle else DARK
        axes.text(temps.index(temp), alphas.index(alpha), f"{value:.2f}", ha="center", va="center", color=colour)
    temp, alpha = max(values, key=values.get)
    corner = temps.index(temp) - 0.5, alphas.index(alpha) - 0.5
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.5))
    figure.colorbar(image, ax=axes).outline.set_visible(False)
    save(figure, path)


def _line(axes: Axes, history: History, column: str, label: str | None = None, **style: Any) -> None:
    points = [(row["epoch"], row[column]) for row in history if row[column] is not None]
    if points:
        style |= {"marker": "o", "markersize": 3.5} if len(points) < 30 else {}
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _test(axes: Axes, epoch: int, value: float, label: str) -> None:
    """Mark a result on the test images after the last epoch."""
    axes.plot(epoch, value, "D", color=GREY, markersize=6, label=label, clip_on=False, zorder=4)


def _whole_epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
