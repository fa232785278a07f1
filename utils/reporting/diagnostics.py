"""Plots of the analysis of a run: how far its confidence can be trusted, and what it gets wrong."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # without pyplot: no display and no MPLBACKEND is ever asked for

from utils.reporting.curves import COLOURS, GREY, dress, save

Analysis = Mapping[str, Any]  # of utils.evaluation.analysis

COUNTS_UP_TO = 20  # classes whose counts can be read in their cells
MOST_LABELS = 25  # class names along a side of the confusion matrix
COLUMNS = 6  # of the contact sheet
DARK = "#202124"
PLAIN = {"parse_math": False}  # a $ in a class name is a $


def plot_reliability(analysis: Analysis, path: Path, title: str) -> None:
    """Write accuracy against confidence, a bar for each bin that has images, with a histogram of them below.

    The reliability diagram of Guo et al., *On Calibration of Modern Neural Networks*, 2017, figure 1.
    """
    bins, images = analysis["calibration"], analysis["images"]
    width = 100 / len(bins["count"])
    filled = [number for number, count in enumerate(bins["count"]) if count]
    centres = [(number + 0.5) * width for number in filled]
    figure = Figure(figsize=(6.4, 5.8), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _title(figure, title)
    subtitle = f"calibration error {analysis['ece']:.1f} %, top-1 {analysis['top1']:.1f} %, {images:,} test images"
    upper.set_title(subtitle, loc="left", fontsize=9, color=DARK)
    dress(upper, "", "accuracy (%)")
    accuracies = [bins["accuracy"][number] for number in filled]
    upper.bar(centres, accuracies, 0.92 * width, color=COLOURS[0], label="accuracy in each bin")
    upper.plot((0, 100), (0, 100), "--", color=COLOURS[1], linewidth=1.5, label="confidence = accuracy")
    upper.set(xlim=(0, 100), ylim=(0, 101), yticks=range(0, 101, 20))
    dress(lower, "confidence (%)", "images (%)")
    lower.bar(centres, [100 * bins["count"][number] / images for number in filled], 0.92 * width, color=COLOURS[7])
    figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=2)
    save(figure, path)


def plot_confusion(analysis: Analysis, path: Path, title: str) -> bool:
    """Write the confusion matrix in percent of each true class, with counts where they can be read.

    A class without test images is a white row. Returns False, and writes nothing, where the analysis has none
    because of too many classes.
    """
    if analysis["confusion"] is None:
        return False
    counts = np.array(analysis["confusion"])  # [C, C]
    classes = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3.4 + min(0.38 * classes, 6.0)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    _title(figure, title)
    # The square root: most mistakes are a few percent, and would be as white as none.
    shades = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(shares, cmap="Blues", norm=shades, interpolation="nearest")
    dress(axes, "predicted class", "true class")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    ticks = range(0, classes, -(-classes // MOST_LABELS))
    names = [_short(analysis["class_names"][number], 18) for number in ticks]
    size = 9 if classes <= 12 else 8
    upright = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, names, fontsize=size, **upright, **PLAIN)
    axes.set_yticks(ticks, names, fontsize=size, **PLAIN)
    if classes <= COUNTS_UP_TO:
        style = {"ha": "center", "va": "center", "fontsize": 8 if counts.max() < 1000 else 6.5}
        for row, column in np.argwhere(counts):
            colour = "white" if shades(shares[row, column]) > 0.6 else DARK
            axes.text(column, row, str(counts[row, column]), color=colour, **style)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, ticks=(0, 1, 5, 20, 50, 100), format="%d")
    bar.set_label("% of the true class", color=GREY)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=GREY, length=0)
    save(figure, path)
    return True


def plot_mistakes(images: np.ndarray, analysis: Analysis, path: Path, title: str) -> None:
    """Write a contact sheet of the most confident mistakes: true class, prediction and its confidence.

    `images` (uint8 [M, H, W, 3], an array or a CPU tensor) are those of analysis["mistakes"], in its order.
    """
    mistakes = analysis["mistakes"]
    rows = max(1, -(-len(mistakes) // COLUMNS))
    figure = Figure(figsize=(9.0, 0.5 + 2.0 * rows), layout="constrained", facecolor="white")
    _title(figure, title)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, pixels, mistake in zip(grid, np.asarray(images), mistakes, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        caption = f"{_short(mistake['true'], 18)}\n→ {_short(mistake['predicted'], 16)}"
        axes.set_title(caption, loc="left", fontsize=8, color=DARK, pad=4, **PLAIN)
        confidence = f"{mistake['confidence']:.1f} % sure"
        axes.text(0, -0.03, confidence, transform=axes.transAxes, va="top", fontsize=8, color=COLOURS[1])
    if not mistakes:
        text = f"no mistakes on {analysis['images']:,} test images"
        figure.text(0.5, 0.45, text, ha="center", fontsize=11, color=GREY)
    save(figure, path)


def _title(figure: Figure, title: str) -> None:
    lines = textwrap.fill(title, round(10 * figure.get_figwidth()))  # letters of this size, 10 to an inch
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold", **PLAIN)


def _short(name: str, length: int) -> str:
    """A class name on one line, without its middle where it is too long, that any font can be asked for."""
    name = " ".join(name.encode(errors="replace").decode().split())  # a folder's name need not be text
    half = length // 2
    return name if len(name) <= length else f"{name[:half].rstrip()}…{name[half + 1 - length :].lstrip()}"
