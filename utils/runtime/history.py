"""The metrics of a training, epoch by epoch: history.csv."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.runtime.errors import UserError, reading
from utils.runtime.files import write_text
from utils.runtime.ranges import PERCENT, POSITIVE, Range, optional, require_ranges
from utils.runtime.regular_file import read_regular
from utils.runtime.schema import LARGEST, bounded


@dataclass(frozen=True)
class EpochRecord:
    """A row of history.csv: losses are means over samples, accuracies percent."""

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    train_top5: float
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    seconds: float  # of training alone


COLUMNS = tuple(field.name for field in fields(EpochRecord))
RANGES = {
    **{"epoch": POSITIVE, "lr": Range(), "train_loss": Range(-LARGEST)},  # an objective may be below zero
    **{"train_top1": PERCENT, "train_top5": PERCENT, "val_loss": optional(Range())},
    **{"val_top1": optional(PERCENT), "val_top5": optional(PERCENT), "seconds": Range()},
}


def write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write history.csv whole: a torn line of an earlier process is gone after it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in history:
        values = asdict(record).values()
        writer.writerow("" if value is None else f"{value:.6g}" for value in values)
    write_text(path, text.getvalue())


def read_history(path: Path, hint: str) -> list[dict[str, float | None]]:
    """The rows of history.csv, numbers or None, one at least. Raises UserError with `hint` for a damaged file."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint) from None
    with reading(path, hint):
        text = io.StringIO(data.decode(errors="replace"), newline="")
        rows = [{name: _number(name, row[name]) for name in COLUMNS} for row in csv.DictReader(text)]
        if not rows:
            raise ValueError("it has no epoch")
    for row in rows:
        require_ranges(path, row, RANGES, hint)
    return rows


def _number(column: str, text: str) -> float | None:
    """A cell of history.csv; only validation metrics may be absent."""
    return None if not text and column.startswith("val_") else bounded(float(text))
