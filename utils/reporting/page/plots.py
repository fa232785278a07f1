"""The plots of the report page as inline SVG: lines and text take the colours of the page, light or dark."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from utils.reporting.curves import History

WIDTH, HEIGHT = 420, 260  # the page scales a plot to its column
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # margins for the labels of the axes
ACROSS, UP = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
FOLD = 20  # classes that are shown without being asked for
COLOURS = 8  # c0 to c7 in page.css
# Outlines around the origin, for readers who cannot tell the colours apart.
MARKERS = (
    "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0z",
    "M-.9,-.9h1.8v1.8h-1.8z",
    "M0,-1.3L1.3,0L0,1.3L-1.3,0z",
    "M0,-1.2L1.2,.95H-1.2z",
)


class Point(NamedTuple):
    """A figure of all seeds of a row."""

    x: float
    mean: float
    low: float
    high: float


class Series(NamedTuple):
    """What one row of the table shows in a plot."""

    index: int  # of the row: its colour and marker
    title: str
    points: Sequence[Point]


class Scale:
    """Maps values to positions along an axis of `length` units, with room at both ends."""

    def __init__(self, values: Sequence[float], length: float, log: bool = False, whole: bool = False):
        self.log, self.whole, self.length = log and min(values) > 0, whole, length
        low, high = self._flat(min(values)), self._flat(max(values))
        room = 0.06 * (high - low) or 1.0
        if self.log:  # a factor of two at least: the noise of a latency must not look like a difference
            room = max(0.06 * (high - low), (math.log10(2) - (high - low)) / 2)
        self.low, self.high = low - room, high + room

    def __call__(self, value: float) -> float:
        if self.log and value <= 0:
            return -self.length  # the logarithm has no place for it: below the plot
        return (self._flat(value) - self.low) / (self.high - self.low) * self.length

    def ticks(self) -> list[float]:
        """Round numbers, two at least and about six at most."""
        low, high = self.low, self.high
        if self.log:
            low, high = 10**low, 10**high
            for factors in ((1, 2, 5), (1, 3), (1,)):
                powers = range(math.floor(self.low), math.ceil(self.high) + 1)
                found = [factor * 10.0**power for power in powers for factor in factors]
                found = [value for value in found if low <= value <= high]
                if 2 <= len(found) <= 6:
                    return found
            if len(found) > 6:
                return found[:: -(-len(found) // 6)]
        rough = (high - low) / 6
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        step = max(1.0, step) if self.whole else step
        return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


def short(value: float, digits: int = 3) -> str:
    """A number of so many digits with a prefix: 73 k, 1.2 M."""
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if float(f"{abs(value):.{digits}g}") >= size:
            return f"{float(f'{value / size:.{digits}g}'):g}{prefix}"
    return f"{float(f'{value:.{digits}g}'):g}"


def key(index: int) -> str:
    """The marker of a row, to stand in a line of text."""
    return f'<svg class="key" viewBox="-1.5 -1.5 3 3" aria-hidden="true">{_marker(index, 0, 0, 1)}</svg>'


def summarise(index: int, title: str, seeds: Sequence[History], column: str) -> Series:
    """A column of history.csv by epoch, over the seeds; only epochs in which all of them have a number."""
    points = []
    for records in zip(*seeds, strict=False):
        values = [record[column] for record in records]
        if all(value is not None and math.isfinite(value) for value in values):
            points.append(Point(records[0]["epoch"], statistics.mean(values), min(values), max(values)))
    return Series(index, title, points)


def curves(label: str, series: Sequence[Series], log: bool) -> str:
    """Means by epoch, with a band from the lowest to the highest seed.

    Without `log`, the first quarter of the epochs may be cut off: what is decided lies far above it.
    """
    points = [point for one in series for point in one.points]
    values = [point.mean for point in points]  # a band may be cut off: one lucky seed must not squeeze the rest
    if not log:
        bottom = min(one.points[(len(one.points) - 1) // 4].mean for one in series) - 5
        values = [max(value, bottom) for value in values]
    across, up = Scale([point.x for point in points], ACROSS, whole=True), Scale(values, UP, log)
    drawn = []
    for index, _, line in series:
        places = [(across(point.x), *(UP - up(value) for value in point[1:])) for point in line]
        if any(point.low < point.high for point in line):
            edge = [(x, low) for x, _, low, _ in places] + [(x, high) for x, _, _, high in reversed(places)]
            drawn.append(f'<path {_colour(index)} fill="currentColor" opacity=".16" d="{_path(edge)}z"/>')
        drawn.append(_stroke(index, [(x, mean) for x, mean, _, _ in places]))
        every = -(-len(places) // 8)
        drawn += [_marker(index, x, mean, 3.5) for x, mean, _, _ in places[::-every]]
    ends = "; ".join(f"{one.title}: {short(one.points[-1].mean)} after the last epoch" for one in series)
    return _plot(f"{label} over epochs. {ends}.", "epoch", across, up, drawn)


def scatter(label: str, x_label: str, series: Sequence[Series]) -> str:
    """The first point of each series, with its range over seeds; `x` on a logarithmic scale."""
    points = [one.points[0] for one in series]
    across = Scale([point.x for point in points], ACROSS, log=True)
    up = Scale([value for point in points for value in point[1:]], UP)
    drawn, told = [], []
    for (index, title, _), point in zip(series, points, strict=True):
        x, mean, low, high = across(point.x), *(UP - up(value) for value in point[1:])
        told.append(f"{title}: {point.mean:.2f} % at {short(point.x)}")
        drawn += [_stroke(index, [(x, low), (x, high)]), _marker(index, x, mean, 6, told[-1])]
    return _plot(f"{label} against {x_label}. {'; '.join(told)}.", x_label, across, up, drawn)


def reliability(index: int, label: str, seeds: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against confidence by bin, the images of all seeds together (Guo et al. 2017, figure 1).

    Each of `seeds` is the `calibration` of an analysis.json. The bars along the bottom are the share of the
    images in each bin.
    """
    across, up = Scale((0, 100), ACROSS), Scale((0, 100), UP)
    drawn = [f'<path class="diagonal" d="{_path([(across(0), UP - up(0)), (across(100), UP - up(100))])}"/>']
    columns = ("count", "confidence", "accuracy")
    bins = list(zip(*(list(zip(*map(seed.get, columns), strict=False)) for seed in seeds), strict=False))
    images = sum(count for seeds_of_bin in bins for count, _, _ in seeds_of_bin) or 1
    line, wide = [], (across(100) - across(0)) / max(1, len(bins))
    for number, seeds_of_bin in enumerate(bins):
        filled = [one for one in seeds_of_bin if one[0] > 0 and None not in one]
        count = sum(one[0] for one in filled)
        if not filled:
            continue
        sure, right = (sum(one[0] * one[place] for one in filled) / count for place in (1, 2))
        line.append((across(sure), UP - up(right), f"{right:.1f} % right of {count:,} answers {sure:.1f} % sure"))
        tall, x = count / images * up(100) / 2, across(0) + number * wide + 1
        box = f'x="{x:.1f}" y="{UP - up(0) - tall:.1f}" width="{wide - 2:.1f}" height="{tall:.1f}"'
        drawn.append(f'<rect class="share" {box}/>')
    drawn.append(_stroke(index, [(x, y) for x, y, _ in line]))
    drawn += [_marker(index, x, y, 4, tip) for x, y, tip in line]
    return _plot(label, "confidence (%)", across, up, drawn)


def class_bars(classes: Iterable[tuple[str, float | None, float | None]], taught: bool) -> str:
    """Tables of (name, top-1 in percent, gain in points): best gain first if `taught`, else lowest top-1 first."""
    place, sign = (2, -1) if taught else (1, 1)
    classes = sorted(classes, key=lambda each: (each[place] is None, sign * (each[place] or 0)))
    widest = max((abs(gain) for *_, gain in classes if gain is not None), default=0) or 1
    head = '<th scope="col">class</th><th scope="col" colspan="2">top-1 (%)</th>'
    head += '<th scope="col" colspan="2">gain (points)</th>' * taught
    lines = []
    for name, top1, gain in classes:
        cells = _bar("", 0, top1 or 0) + f"<td>{'-' if top1 is None else f'{top1:.1f}'}</td>"
        if taught:
            wide = (gain or 0) / widest * 50
            cells += _bar(" middle down" if wide < 0 else " middle up", 50 + min(wide, 0), abs(wide))
            cells += f"<td>{'-' if gain is None else f'{gain:+.1f}'}</td>"
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    shown, folded = (
        f'<table class="bars"><thead><tr>{head}</tr></thead><tbody>{"".join(part)}</tbody></table>'
        for part in (lines[:FOLD], lines[FOLD:])
    )
    more = f"<details><summary>{len(lines) - FOLD} more classes</summary>{folded}</details>"
    return shown + more * (len(lines) > FOLD)


def _bar(kind: str, left: float, width: float) -> str:
    style = f"left:{left:.1f}%;width:{width:.1f}%"
    return f'<td class="track"><span class="bar{kind}"><i style="{style}"></i></span></td>'


def _plot(label: str, x_label: str, across: Scale, up: Scale, drawn: Sequence[str]) -> str:
    """The frame of a plot: grid, ticks, the name of the horizontal axis, and what is drawn, clipped."""
    parts = [f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}">']
    for value in up.ticks():
        y = TOP + UP - up(value)
        parts.append(f'<path class="grid" d="{_path([(LEFT, y), (WIDTH - RIGHT, y)])}"/>')
        parts.append(_text(LEFT - 6, y + 4, "end", short(value, 5)))
    for value in across.ticks():
        x = LEFT + across(value)
        parts.append(f'<path class="grid" d="{_path([(x, TOP + UP), (x, TOP + UP + 4)])}"/>')
        parts.append(_text(x, TOP + UP + 16, "middle", short(value, 5)))
    parts.append(_text(LEFT + ACROSS / 2, HEIGHT - 5, "middle", x_label))
    inner = f'<svg x="{LEFT}" y="{TOP}" width="{ACROSS}" height="{UP}">{"".join(drawn)}</svg>'
    return "".join([*parts, inner, "</svg>"])


def _marker(index: int, x: float, y: float, size: float, tip: str = "") -> str:
    shape = MARKERS[(index + index // COLOURS) % len(MARKERS)]
    title = f"<title>{escape(tip)}</title>" if tip else ""
    move = f"translate({x:.1f} {y:.1f}) scale({size:g})"
    return f'<path {_colour(index)} fill="currentColor" d="{shape}" transform="{move}">{title}</path>'


def _stroke(index: int, points: Sequence[tuple[float, float]]) -> str:
    return f'<path {_colour(index)} fill="none" stroke="currentColor" stroke-width="2" d="{_path(points)}"/>'


def _colour(index: int) -> str:
    return f'class="c{index % COLOURS}"'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
