"""What numbers read from files may be: a metric out of its range is not shown, and its file is named."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError, printable
from utils.runtime.schema import LARGEST, NUMBER


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, whole ones only or also None where it says so; a kind for `fits`."""

    low: float = 0
    high: float = LARGEST
    whole: bool = False
    optional: bool = False

    def __call__(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, NUMBER):
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))  # NaN is in no range

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g}" + (f" to {self.high:g}" if self.high < LARGEST else "")


PERCENT = Range(0, 100)
COUNT = Range(whole=True)
POSITIVE = Range(1, whole=True)


def optional(range: Range) -> Range:
    return replace(range, optional=True)


def require_ranges(path: Path, values: Mapping[str, Any], ranges: Mapping[str, Range], hint: str) -> None:
    """Raise UserError, which names the file `path`, unless each value that `ranges` names is within its range."""
    for name, range in ranges.items():
        value = values.get(name)
        if not range(value):
            text = printable(value, 40)
            raise UserError(f"{path} cannot be right: {name} is {text}, not {range}", hint)
