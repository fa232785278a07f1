"""The geometry of the page's charts. The template draws them as SVG in the colours of the page, light or dark."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from utils.reporting.calibration import read_bins
from utils.reporting.curves import History
from utils.reporting.format import short, spread
from utils.reporting.page.entry import Entry
from utils.reporting.style import Style

WIDTH, HEIGHT = 366, 214  # of the area within the axes; y points down, as in SVG
Position = tuple[float, float]  # x, y


class Scale:
    """Maps values to positions from `start` to `end`, with room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False, whole: bool = False):
        self.log, self.whole, self.start, self.end = log and min(values) > 0, whole, start, end
        low, high = self._flat(min(values)), self._flat(max(values))
        room = 0.06 * (high - low) or 1.0
        if self.log:  # a factor of two at least: the noise of a latency must not look like a difference
            room = max(0.06 * (high - low), (math.log10(2) - (high - low)) / 2)
        self.low, self.high = low - room, high + room

    def __call__(self, value: float) -> float:
        if self.log and value <= 0:
            return 2 * self.start - self.end  # zero has no logarithm: outside the chart
        return self.start + (self._flat(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions and texts of round numbers, two at least and about six at most."""
        return [(self(value), short(value, 5)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        low, high, values = self.low, self.high, []
        if self.log:
            low, high = 10**low, 10**high
            for factors in ((1, 2, 5), (1, 3), (1,)):
                powers = range(math.floor(self.low), math.ceil(self.high) + 1)
                values = [factor * 10.0**power for power in powers for factor in factors]
                values = [value for value in values if low <= value <= high]
                if 2 <= len(values) <= 6:
                    return values
        if len(values) > 6:
            return values[:: -(-len(values) // 6)]
        values = MaxNLocator(6, steps=[1, 2, 5, 10], integer=self.whole).tick_values(low, high)
        return [float(value) for value in values if low <= value <= high]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


class Range(NamedTuple):
    low: float
    middle: float
    high: float


class Point(NamedTuple):
    """A value of all seeds of a row at an epoch."""

    x: float
    mean: float
    low: float
    high: float


class Marker(NamedTuple):
    position: Position
    tip: str = ""
    hollow: bool = False


class Line(NamedTuple):
    """What one row of the table shows in a chart, where it is drawn."""

    style: Style
    path: Sequence[Position]
    markers: Sequence[Marker]
    band: Sequence[Position] = ()
    whiskers: Sequence[Sequence[Position]] = ()  # the ranges of the markers


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    label: str  # the chart in words, for those who cannot see it
    x_label: str
    x: Scale
    y: Scale
    lines: Sequence[Line]
    marker_size: float
    bars: Sequence[tuple[float, float, float, float]] = ()  # x, y, width, height
    diagonal: Sequence[Position] = ()


def summarise(seeds: Sequence[History], column: str) -> list[Point]:
    """A column of history.csv by epoch, over the seeds; only epochs in which all of them have a number."""
    points = []
    for records in zip(*seeds, strict=False):
        values = [record[column] for record in records]
        if all(value is not None and math.isfinite(value) for value in values):
            points.append(Point(records[0]["epoch"], statistics.mean(values), min(values), max(values)))
    return points


def curves(title: str, note: str, log: bool, rows: Sequence[tuple[Entry, Sequence[Point]]]) -> Chart:
    """Means by epoch, with a band from the lowest to the highest seed.

    Without `log`, the first quarter of the epochs may be cut off: what is decided lies far above it.
    """
    epochs = [point.x for _, points in rows for point in points]
    # Not the band: one lucky seed must not squeeze the rest.
    values = [point.mean for _, points in rows for point in points]
    if not log:
        bottom = min(points[(len(points) - 1) // 4].mean for _, points in rows) - 5
        values = [max(value, bottom) for value in values]
    x, y = Scale(epochs, 0, WIDTH, whole=True), Scale(values, HEIGHT, 0, log)
    lines = []
    for entry, points in rows:
        path = [(x(point.x), y(point.mean)) for point in points]
        band = [(x(point.x), y(point.low)) for point in points]
        band += [(x(point.x), y(point.high)) for point in reversed(points)]
        markers = [Marker(position) for position in path[:: -math.ceil(len(path) / 8)]]
        several = any(point.low < point.high for point in points)
        lines.append(Line(entry.style, path, markers, band if several else ()))
    ends = (f"{entry.row.title}: {short(points[-1].mean)} after the last epoch" for entry, points in rows)
    note = ", ".join(filter(None, (note, "logarithmic scale" if y.log else "")))
    return Chart(title, note, f"{title} over epochs. {'; '.join(ends)}.", "epoch", x, y, lines, 3.5)


def scatter(title: str, note: str, x_label: str, rows: Sequence[tuple[Entry, Range, Range]]) -> Chart:
    """Top-1 in percent over a cost, which has a logarithmic scale, each with its range."""
    x = Scale([value for _, cost, _ in rows for value in cost], 0, WIDTH, log=True)
    y = Scale([value for _, _, top1 in rows for value in top1], HEIGHT, 0)
    lines, tips = [], []
    for entry, cost, top1 in rows:
        tips.append(f"{entry.row.title}: {top1.middle:.2f} % at {short(cost.middle)}")
        middle = x(cost.middle), y(top1.middle)
        upright = [(middle[0], y(top1.low)), (middle[0], y(top1.high))]
        level = [(x(cost.low), middle[1]), (x(cost.high), middle[1])]
        lines.append(Line(entry.style, (), [Marker(middle, tips[-1])], whiskers=[upright, level]))
    label = f"Top-1 against {x_label}. {'; '.join(tips)}."
    return Chart(title, note, label, f"{x_label}, logarithmic scale" if x.log else x_label, x, y, lines, 6)


def reliability(entry: Entry) -> Chart:
    """Accuracy against confidence by bin, the images of all seeds together (Guo et al. 2017, figure 1).

    Bars on the same axis are the share of the images in each bin. Bins of few images are hollow, and the line
    passes them by.
    """
    x, y = Scale((0, 100), 0, WIDTH), Scale((0, 100), HEIGHT, 0)
    bins = read_bins(entry.values("calibration"))
    images = sum(each.count for each in bins)
    bars, markers, whiskers = [], [], []
    for each in bins:
        tip = f"{each.accuracy:.1f} % right of {each.count:,} predictions at {each.confidence:.1f} % confidence"
        tip += f", 95 % interval {each.low:.1f} to {each.high:.1f}"
        markers.append(Marker((x(each.confidence), y(each.accuracy)), tip, each.few))
        whiskers.append([(x(each.confidence), y(each.low)), (x(each.confidence), y(each.high))])
        top = y(100 * each.count / images)
        bars.append((x(each.start) + 1, top, x(each.end) - x(each.start) - 2, y(0) - top))
    path = [marker.position for marker in markers if not marker.hollow]
    note = f"expected calibration error {spread(entry.values('ece'))} %"
    label, diagonal = f"Accuracy against confidence, {note}", [(x(0), y(0)), (x(100), y(100))]
    line = Line(entry.style, path, markers, whiskers=whiskers)
    return Chart(entry.row.title, note, label, "confidence (%)", x, y, [line], 4, bars, diagonal)
