"""The geometry of the page's charts. The template draws them as SVG in the colours of the page, light or dark."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from utils.reporting.curves import History
from utils.reporting.format import short, spread
from utils.reporting.page.entry import Entry

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


class Point(NamedTuple):
    """A value of all seeds of a row."""

    x: float
    mean: float
    low: float
    high: float


class Line(NamedTuple):
    """What one row of the table shows in a chart, where it is drawn."""

    index: int  # of the row: its colour and marker
    path: Sequence[Position]
    markers: Sequence[tuple[Position, str]]  # each with its tip
    band: Sequence[Position] = ()


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
        markers = [(position, "") for position in path[:: -math.ceil(len(path) / 8)]]
        several = any(point.low < point.high for point in points)
        lines.append(Line(entry.index, path, markers, band if several else ()))
    ends = (f"{entry.row.title}: {short(points[-1].mean)} after the last epoch" for entry, points in rows)
    return Chart(title, note, f"{title} over epochs. {'; '.join(ends)}.", "epoch", x, y, lines, 3.5)


def scatter(title: str, note: str, x_label: str, rows: Sequence[tuple[Entry, Point]]) -> Chart:
    """Top-1 in percent, with its range over seeds; `x` on a logarithmic scale."""
    x = Scale([point.x for _, point in rows], 0, WIDTH, log=True)
    y = Scale([value for _, point in rows for value in point[1:]], HEIGHT, 0)
    lines, tips = [], []
    for entry, point in rows:
        tips.append(f"{entry.row.title}: {point.mean:.2f} % at {short(point.x)}")
        path = [(x(point.x), y(point.low)), (x(point.x), y(point.high))]
        lines.append(Line(entry.index, path, [((x(point.x), y(point.mean)), tips[-1])]))
    return Chart(title, note, f"Top-1 against {x_label}. {'; '.join(tips)}.", x_label, x, y, lines, 6)


def reliability(entry: Entry) -> Chart:
    """Accuracy against confidence by bin, the images of all seeds together (Guo et al. 2017, figure 1).

    The bars along the bottom are the share of the images in each bin.
    """
    x, y = Scale((0, 100), 0, WIDTH), Scale((0, 100), HEIGHT, 0)
    columns = ("count", "confidence", "accuracy")
    seeds = [list(zip(*map(seed.get, columns), strict=False)) for seed in entry.values("calibration")]
    bins = list(zip(*seeds, strict=False))
    images = sum(count for bin_of_seeds in bins for count, _, _ in bin_of_seeds) or 1
    bars, markers, width = [], [], (x(100) - x(0)) / max(1, len(bins))
    for number, bin_of_seeds in enumerate(bins):
        filled = [one for one in bin_of_seeds if one[0] > 0 and None not in one]
        if not filled:
            continue
        count = sum(one[0] for one in filled)
        confidence, accuracy = (sum(one[0] * one[column] for one in filled) / count for column in (1, 2))
        tip = f"{accuracy:.1f} % right of {count:,} predictions at {confidence:.1f} % confidence"
        markers.append(((x(confidence), y(accuracy)), tip))
        height = count / images * (HEIGHT - y(100)) / 2
        bars.append((x(0) + number * width + 1, y(0) - height, width - 2, height))
    line = Line(entry.index, [position for position, _ in markers], markers)
    note = f"expected calibration error {spread(entry.values('ece'))} %"
    label, diagonal = f"Accuracy against confidence, {note}", [(x(0), y(0)), (x(100), y(100))]
    return Chart(entry.row.title, note, label, "confidence (%)", x, y, [line], 4, bars, diagonal)
