"""What numbers read from files may be: a metric out of its range is not shown, and its file is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.runtime.errors import UserError, printable


class Range(NamedTuple):
    """Finite numbers from `low` to `high`, whole ones only or also None where it says so."""

    low: float = 0
    high: float = 1e18  # beyond, nothing can be drawn
    whole: bool = False
    optional: bool = False

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))  # NaN is in no range

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g}" + (f" to {self.high:g}" if self.high < 1e18 else "")


PERCENT = Range(0, 100)
COUNT = Range(whole=True)
POSITIVE = Range(1, whole=True)


def optional(range: Range) -> Range:
    return range._replace(optional=True)


def require_ranges(path: Path, values: Mapping[str, Any], ranges: Mapping[str, Range], hint: str) -> None:
    """Raise UserError, which names the file `path`, unless each value that `ranges` names is within its range."""
    for name, range in ranges.items():
        value = values.get(name)
        if not range.holds(value):
            text = printable(value, 40)
            raise UserError(f"{path} cannot be right: {name} is {text}, not {range}", hint)
