"""What the page knows of a row of the table: its runs, and what their analysis.json files hold."""

import base64
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.reporting.style import Style
from utils.reporting.table import Row
from utils.runtime.errors import UserError, printable
from utils.runtime.json_file import read_json
from utils.runtime.ranges import COUNT, PERCENT, POSITIVE, Range, optional
from utils.runtime.run_dir import ANALYSIS, PLOTS
from utils.runtime.schema import fits

# What the page reads of an analysis.json; a list names the kind of all its items.
SHARE = optional(PERCENT)  # None: of no image
SCHEMA = {
    **dict.fromkeys(("multiply_adds", "file_bytes"), COUNT),
    **dict.fromkeys(("throughput_batch", "epoch"), POSITIVE),
    **dict.fromkeys(("latency_ms", "throughput"), Range()),
    "ece": PERCENT,
    **dict.fromkeys(("device", "checkpoint"), str),
    **dict.fromkeys(("latency_q1_ms", "latency_q3_ms"), optional(Range())),  # None: of an earlier version
    "busy": str,
    "calibration": {"count": [COUNT], "confidence": [SHARE], "accuracy": [SHARE]},
    "class_names": [str],
    "per_class": [SHARE],
    "confused": [{"true": str, "predicted": str, "count": COUNT, "share": PERCENT}],
    "mistakes": [{"index": COUNT, "true": str, "predicted": str, "confidence": PERCENT}],
}
TEACHER = {"agreement": PERCENT, "teacher_mistakes": COUNT}
TEACHER |= dict.fromkeys(("inherited", "corrected", "regressed"), SHARE)  # None for a perfect teacher
BASELINE = {"per_class_gain": [optional(Range(-100, 100))]}


class ClassResult(NamedTuple):
    """Means over seeds; None for a class without images, and for the gain of a network without a teacher."""

    name: str
    top1: float | None  # percent
    gain: float | None  # points over the student alone
    share: float  # the gain as a share of the largest, -1 to 1


@dataclass(frozen=True)
class Entry:
    """A row of the table, with what was measured of its runs."""

    style: Style
    row: Row
    analysis: dict[int, dict[str, Any]]  # by seed, the lowest first
    images: dict[str, str]  # the plots of the displayed seed as data URIs, by the names of their files

    @property
    def title(self) -> str:
        return self.row.title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")

    @property
    def seed(self) -> int:
        """The seed whose confusion and mistakes are displayed."""
        return min(self.analysis)

    @property
    def first(self) -> dict[str, Any]:
        return self.analysis[self.seed]

    def values(self, key: str, part: str = "") -> list[Any]:
        """A value of each seed, from the top level or from its `part` "teacher" or "baseline"."""
        parts = [each[part] if part else each for each in self.analysis.values()]
        return [each[key] for each in parts if each is not None]

    def classes(self) -> list[ClassResult]:
        """The best gain first, or the lowest accuracy where nothing was gained over; unknown ones last."""
        top1 = _class_means(self.values("per_class"))
        gains = _class_means(self.values("per_class_gain", "baseline"))
        largest = max((abs(gain) for gain in gains if gain is not None), default=0) or 1
        values = zip(self.first["class_names"], top1, gains or [None] * len(top1), strict=False)
        classes = [ClassResult(name, accuracy, gain, (gain or 0) / largest) for name, accuracy, gain in values]
        column, sign = (2, -1) if gains else (1, 1)
        return sorted(classes, key=lambda one: (one[column] is None, sign * (one[column] or 0)))


def _class_means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    known = ([value for value in values if value is not None] for values in zip(*seeds, strict=False))
    return [statistics.mean(values) if values else None for values in known]


def read_entry(style: Style, row: Row, folder: Path) -> Entry:
    """Read the runs of a row in its `folder`; what a damaged analysis.json tells is left out with a warning."""
    paths = {seed: folder / f"seed{seed}" / ANALYSIS for seed in sorted(row.tests)}
    analysis = {}
    for seed, path in paths.items():
        try:
            analysis |= {seed: _read(path)} if path.exists() else {}
        except UserError as error:
            print(printable(f"warning: left out of the page: {error}"), file=sys.stderr)
    run = folder / f"seed{min(analysis)}" if analysis else None
    return Entry(style, row, analysis, {name: _image(run / name) for name in PLOTS} if run else {})


def _image(path: Path) -> str:
    """A plot of a run as a data URI; empty where it is missing.

    A page is passed on to others: what a link points to, a folder's or the file's own, is never part of it.
    """
    for each in (path, path.parent, path.parent.parent):
        if each.is_symlink():
            print(f"warning: {path} is left out of the page: {each} is a link", file=sys.stderr)
            return ""
    if path.exists() and not path.is_file():
        print(f"warning: {path} is left out of the page: it is no regular file", file=sys.stderr)
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""


def _read(path: Path) -> dict[str, Any]:
    damaged = UserError(f"{path} is damaged", "remove it, then python test.py --all writes it again")
    try:
        analysis = read_json(path)
    except (UserError, OSError) as error:
        raise damaged from error
    if isinstance(analysis, dict):  # an earlier version measured less
        analysis = {"latency_q1_ms": None, "latency_q3_ms": None, "busy": ""} | analysis
    if not fits(analysis, SCHEMA):
        raise damaged
    for part, schema in (("teacher", TEACHER), ("baseline", BASELINE)):
        if analysis.setdefault(part) is not None and not fits(analysis[part], schema):
            raise damaged
    return analysis
