"""What the page knows of a row of the table: its runs, and the analysis that was found of them."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from utils.reporting.page.plots import key
from utils.reporting.table import Row
from utils.runtime.errors import UserError
from utils.runtime.run_dir import ANALYSIS, NUMBER, read_json

MEASURE = "python test.py --all"
# What the page reads of an analysis.json; a list names the kind of all its items.
PERCENT = (NUMBER, type(None))
SHAPE = {
    **dict.fromkeys(("multiply_adds", "file_bytes", "throughput_batch", "epoch"), int),
    **dict.fromkeys(("ece", "latency_ms", "throughput"), NUMBER),
    **dict.fromkeys(("device", "checkpoint"), str),
    "calibration": {"count": [int], "confidence": [PERCENT], "accuracy": [PERCENT]},
    "class_names": [str],
    "per_class": [PERCENT],
    "confused": [{"true": str, "predicted": str, "count": int, "share": NUMBER}],
    "mistakes": [{"index": int, "true": str, "predicted": str, "confidence": NUMBER}],
}
OF_TEACHER = dict.fromkeys(("agreement", "teacher_mistakes"), NUMBER)
OF_TEACHER |= dict.fromkeys(("inherited", "corrected", "regressed"), PERCENT)  # None for a perfect teacher
OF_BASELINE = {"per_class_gain": [PERCENT]}


@dataclass(frozen=True)
class Entry:
    """A row of the table, with what was measured of its runs."""

    index: int  # its colour and marker
    row: Row
    folder: Path
    analysis: dict[int, dict[str, Any]]  # by seed, the lowest first

    @property
    def name(self) -> str:
        """Its title with its marker, in HTML; a temperature stays on one line."""
        return key(self.index) + text_of(self.row.title).replace(" = ", "&nbsp;=&nbsp;")

    @property
    def first(self) -> dict[str, Any]:
        return next(iter(self.analysis.values()))

    def values(self, figure: str, part: str = "") -> list[Any]:
        """A figure of each seed, from the top level or from its `part` "teacher" or "baseline"."""
        found = [each[part] if part else each for each in self.analysis.values()]
        return [each[figure] for each in found if each is not None]


def read_entry(index: int, row: Row, folder: Path) -> Entry:
    paths = {seed: folder / f"seed{seed}" / ANALYSIS for seed in sorted(row.tests)}
    return Entry(index, row, folder, {seed: _read(path) for seed, path in paths.items() if path.exists()})


def _read(path: Path) -> dict[str, Any]:
    damaged = UserError(f"{path} is damaged", f"remove it, then {MEASURE} writes it again")
    try:
        found = read_json(path)
    except UserError as error:
        raise damaged from error
    if not _fits(found, SHAPE):
        raise damaged
    for part, shape in (("teacher", OF_TEACHER), ("baseline", OF_BASELINE)):
        if found.setdefault(part) is not None and not _fits(found[part], shape):
            raise damaged
    return found


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(value.get(name, ...), kind) for name, kind in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(each, shape[0]) for each in value)
    # Neither NaN nor infinite nor beyond what can be drawn.
    return isinstance(value, shape) and (not isinstance(value, NUMBER) or abs(value) < 1e18)


def text_of(text: Any) -> str:
    return escape(str(text))
