"""Methods of distillation side by side: what each gains and costs, beside what was published."""

import csv
import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from utils.reporting.format import format_gain, spread
from utils.reporting.rows import Row
from utils.reporting.statistics import Gain

PUBLISHED = Path(__file__).with_name("published.csv")
INTERVAL = "95 % interval"


def method_tables(
    rows: Sequence[Row], gains: Sequence[Gain | None]
) -> dict[str, list[tuple[Row, dict[str, str]]]]:
    """A table for each student that was trained by several methods, by its name: rows, and their cells by title.

    `gains` are those of `rows`. Teachers and students alone come first, then methods from the largest gain down.
    """
    by_row = {id(row): gain for row, gain in zip(rows, gains, strict=True)}
    tables = {}
    for network in dict.fromkeys(row.identity["network"] for row in rows if row.identity["role"] == "kd"):
        own = [row for row in rows if row.identity["network"] == network or row.identity["role"] == "teacher"]
        first = [row for row in own if row.identity["role"] != "kd"]
        distilled = [row for row in own if row.identity["role"] == "kd"]
        if len({row.identity["method"] for row in distilled}) < 2:
            continue
        distilled.sort(key=lambda row: -by_row[id(row)].mean if by_row[id(row)] else math.inf)
        cells = [(row, _cells(row, by_row[id(row)])) for row in first + distilled]
        filled = {title for _, each in cells for title, text in each.items() if text}
        tables[network] = [(row, {k: text for k, text in each.items() if k in filled}) for row, each in cells]
    return tables


def _cells(row: Row, gain: Gain | None) -> dict[str, str]:
    validated = [[record["val_top1"] for record in history] for history in row.histories.values()]
    best = [max((value for value in each if value is not None), default=None) for each in validated]
    interval = "" if gain is None or gain.low is None else f"{gain.low:+.2f} to {gain.high:+.2f}"
    return {
        "last epoch, test (%)": spread(row.values("top1")),
        "gain": format_gain(gain),
        INTERVAL: interval,
        "ms a step": f"{statistics.mean(times):.1f}" if (times := step_milliseconds(row)) else "",
        "best epoch, validation (%)": spread(best),
        "published (%)": _published(row),
    }


def step_milliseconds(row: Row) -> list[float]:
    """What a step of training took in the fastest epoch of each seed: others may have been disturbed.

    Validation and the making of the teacher's cached outputs are not in it. Empty where no batch size is recorded.
    """
    times = []
    for seed, history in row.histories.items() if row.identity.get("batch_size") else ():
        steps = math.ceil(row.configs[seed]["data"]["train"] / row.identity["batch_size"])
        times.append(1000 * min(record["seconds"] for record in history) / steps)
    return times


def _published(row: Row) -> str:
    """What others report for the same networks and method, and of which epoch."""
    identity = row.identity
    role, network = identity["role"], identity["network"]
    teacher = {"teacher": network, "student": ""}.get(role, identity.get("teacher", ""))
    student = "" if role == "teacher" else network
    return read_published().get((identity.get("dataset"), teacher, student, identity.get("method", role)), "")


@functools.cache
def read_published() -> dict[tuple[str, str, str, str], str]:
    """By dataset, teacher and student ("" where there is none), and method or role: top-1 and of which epoch."""
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        return {
            (line["dataset"], line["teacher"], line["student"], line["method"]): f"{line['top1']}, {line['epoch']}"
            for line in csv.DictReader(file)
        }
