"""Plots of the analysis of a run: how far its confidence can be trusted, and what it gets wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm

from utils.reporting.calibration import FEW, read_bins
from utils.reporting.fonts import text_width, use_fonts
from utils.reporting.style import COLOURS, DARK, GREY, OTHER, PLAIN, WHOLE, new_figure, save, styled, styles
from utils.runtime.errors import printable

Analysis = Mapping[str, Any]  # of utils.evaluation.analysis

WIDTH = 5.8  # inches of a plot on the HTML page, where letters of 10 points are then 9 pixels high
MOST_LABELS = 25  # class names along a side of the confusion matrix
COLUMNS = 4  # of the contact sheet
LABEL, CAPTION = 105, 98  # points for a class name beside the matrix, and above an image
DIGIT = 0.09  # inches


@styled
def plot_reliability(analysis: Analysis, path: Path, title: str, role: str = "") -> None:
    """Write accuracy against confidence, a bar for each bin that has images, with a histogram of them below.

    The reliability diagram of Guo et al., *On Calibration of Modern Neural Networks*, 2017, figure 1. A line shows
    the 95 % interval of each bin; bins of few images are hollow. `role` gives the colour.
    """
    bins, images, colour = read_bins([analysis["calibration"]]), analysis["images"], styles([role])[0].colour
    centres = [(each.start + each.end) / 2 for each in bins]
    width = 0.92 * 100 / len(analysis["calibration"]["count"])
    figure = new_figure(title, WHOLE, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    error, top1 = analysis["ece"], analysis["top1"]
    upper.set_title(f"calibration error {error:.1f} %, top-1 {top1:.1f} %, {images:,} test images")
    upper.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 101), yticks=range(0, 101, 20))
    faces = ["none" if each.few else colour for each in bins]
    upper.bar(centres, [each.accuracy for each in bins], width, color=faces, edgecolor=colour)
    upper.plot((0, 100), (0, 100), "--", color=GREY, linewidth=1.5, label="confidence = accuracy")
    interval = {"color": GREY, "linewidth": 1.5, "label": f"95 % interval; hollow: under {FEW} images"}
    upper.vlines(centres, [each.low for each in bins], [each.high for each in bins], **interval)
    lower.set(xlabel="confidence (%)", ylabel="images (%)")
    lower.bar(centres, [100 * each.count / images for each in bins], width, color=OTHER)
    figure.legend(loc="outside lower left", ncols=2)
    save(figure, path)


@styled
def plot_confusion(analysis: Analysis, path: Path, title: str) -> bool:
    """Write the confusion matrix in percent of each true class, with counts where they fit into their cells.

    What never happened has no field. Returns False, and writes nothing, where the analysis has none because of too
    many classes.
    """
    if analysis["confusion"] is None:
        return False
    counts = np.array(analysis["confusion"])  # [C, C]
    classes = len(counts)
    shares = np.ma.masked_equal(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1), 0)
    ticks = range(0, classes, -(-classes // MOST_LABELS))
    names = [_short(analysis["class_names"][number], LABEL) for number in ticks]
    figure = new_figure(title, WIDTH, 2 * WIDTH)
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
    # The square root: most mistakes are a few percent, and would be as white as none.
    shades = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(shares, cmap="Blues", norm=shades, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    upright = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, names, **upright, **PLAIN)
    axes.set_yticks(ticks, names, **PLAIN)
    ticks = (0, 1, 5, 20, 50, 100)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02, ticks=ticks, format="%d")
    bar.set_label("% of the true class")
    bar.outline.set_visible(False)
    with use_fonts(figure):
        figure.draw_without_rendering()  # which settles how much width the names leave
    side = axes.get_window_extent().width / figure.dpi  # inches
    figure.set_figheight(figure.get_figheight() * (1 - axes.get_position(original=True).height) + side)
    cell = side / classes
    if cell > DIGIT * (len(str(counts.max())) + 0.6):
        for row, column in np.argwhere(counts):
            colour = "white" if shades(shares[row, column]) > 0.6 else DARK
            axes.text(column, row, str(counts[row, column]), color=colour, ha="center", va="center")
    save(figure, path)
    return True


@styled
def plot_mistakes(images: np.ndarray, analysis: Analysis, path: Path, title: str) -> None:
    """Write a contact sheet of the most confident mistakes: true class, prediction and its confidence.

    `images` (uint8 [M, H, W, 3], an array or a CPU tensor) are those of analysis["mistakes"], in its order.
    """
    mistakes = analysis["mistakes"]
    rows = max(1, -(-len(mistakes) // COLUMNS))
    figure = new_figure(title, WIDTH, 0.5 + 2.1 * rows)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, pixels, mistake in zip(grid, np.asarray(images), mistakes, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        caption = f"{_short(mistake['true'], CAPTION)}\n→ {_short(mistake['predicted'], CAPTION - 12)}"
        axes.set_title(caption, pad=4, **PLAIN)
        confidence = f"{mistake['confidence']:.1f} % sure"
        axes.text(0, -0.03, confidence, transform=axes.transAxes, va="top", color=COLOURS[1])
    if not mistakes:
        figure.text(0.5, 0.45, f"no mistakes on {analysis['images']:,} test images", ha="center")
    save(figure, path)


def _short(name: str, width: float) -> str:
    """A class name on one line, without its middle where it is wider than so many points."""
    name = printable(" ".join(name.encode(errors="replace").decode().split()))  # a folder's name need not be text
    if text_width(name) <= width:
        return name
    cuts = (f"{name[: n // 2].rstrip()}…{name[n // 2 + 1 - n :].lstrip()}" for n in range(len(name) - 1, 2, -1))
    return next((cut for cut in cuts if text_width(cut) <= width), "…")
