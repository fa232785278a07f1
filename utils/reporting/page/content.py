"""What the page says, as plain data for its template: charts, the cells of its tables and lists of facts."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from utils.reporting.format import GAIN, TEACHER, TOP5, duration, row_cells, short, spread
from utils.reporting.page.charts import Chart, Range, curves, scatter, summarise
from utils.reporting.page.entry import Entry
from utils.reporting.table import Row, paired
from utils.runtime.identity import FINGERPRINTS, SEED
from utils.runtime.run_dir import ROLES

COLUMNS = (
    *("seeds", "top-1 (%)", GAIN, "parameters", "multiply-adds", "file size (bytes)", "latency (ms)"),
    *(TOP5, "NLL (nats)", "ECE (%)", "agrees with the teacher (%)", TEACHER),
)
SEEDS = "mean of the seeds, with the range from the lowest to the highest"
CURVES = {  # column of history.csv: title, note, on a logarithmic scale
    "val_top1": ("Validation accuracy (%)", "", False),
    "val_loss": ("Validation loss", "cross-entropy in nats", True),
    "train_top1": ("Training accuracy (%)", "on augmented images", False),
    "train_loss": ("Training objective", "", True),  # its note is the objective
}


def lead(rows: Sequence[Row]) -> list[str]:
    """The accuracy of each role, from its lowest row to its highest."""
    names = {"teacher": "the teacher", "student": "the student alone", "kd": "the student with KD"}
    parts = []
    for role in ROLES:
        same = [row for row in rows if row.identity["role"] == role]
        if same:
            top1 = _extent([statistics.mean(row.values("top1")) for row in same], "{:.2f}".format)
            size = _extent([row.values("parameters")[0] for row in same], short)
            parts.append(f"{names[role]} ({size} parameters) {top1}\N{NO-BREAK SPACE}%")
    return parts


def _extent(values: Sequence[float], form: Callable[[float], str]) -> str:
    return " to ".join(dict.fromkeys((form(min(values)), form(max(values)))))


class Latency(NamedTuple):
    """Milliseconds for one image, of all rows that have the same network on the same device."""

    ms: Range  # from the first quartile to the third
    device: str
    busy: str  # what speaks against it

    def __str__(self) -> str:
        low, middle, high = (f"{value:.2f}" for value in self.ms)
        return middle + f" ({low}-{high})" * (low < high) + "*" * bool(self.busy)


def latencies(entries: Sequence[Entry]) -> list[Latency | None]:
    """The latency of each row, None where it is not known.

    Networks that are equal share one figure, that of all their runs that were measured on a quiet machine.
    """
    measured: dict[tuple, list[dict[str, Any]]] = {}
    for entry in entries:
        for one in entry.analysis.values():
            measured.setdefault(_architecture(entry, one), []).append(one)
    shared = {}
    for key, each in measured.items():
        calm = [one for one in each if not one["busy"]] or each
        quartiles = (
            [one[name] or one["latency_ms"] for one in calm]
            for name in ("latency_q1_ms", "latency_ms", "latency_q3_ms")
        )
        shared[key] = Latency(Range(*map(statistics.median, quartiles)), key[-1], calm[0]["busy"])
    return [shared[_architecture(entry, entry.first)] if entry.analysis else None for entry in entries]


def _architecture(entry: Entry, analysis: dict[str, Any]) -> tuple:
    return entry.row.identity["network"], analysis["multiply_adds"], analysis["device"]


def latency_notes(known: Sequence[Latency | None]) -> list[str]:
    """What has to be said of the latencies in the table."""
    measured = [each for each in known if each is not None]
    devices, busy = (dict.fromkeys(getattr(each, name) for each in measured) for name in ("device", "busy"))
    notes = [f"Latency: one image at a time on {device}; median (quartiles)." for device in devices]
    if len(devices) > 1:
        notes.append("Latencies of different devices are not to be compared.")
    reasons = ", ".join(dict.fromkeys(reason for text in busy if text for reason in text.split(", ")))
    return notes + ([f"* measured on a busy machine ({reasons}), so it may be too long."] if reasons else [])


def table_cells(entry: Entry, rows: Sequence[Row], latency: Latency | None) -> dict[str, str]:
    """The cells of the table of all runs, by the titles of their columns."""
    row = entry.row
    cells = row_cells(list(row.tests.values()), row.seconds(), paired(row, rows), row.teacher_text)
    cells |= {
        "multiply-adds": _mean(entry.values("multiply_adds"), short),
        "file size (bytes)": _mean(entry.values("file_bytes"), short),
        "latency (ms)": str(latency or ""),
        "ECE (%)": spread(entry.values("ece")),
        "agrees with the teacher (%)": spread(entry.values("agreement", "teacher")),
    }
    return {title: cells[title] for title in COLUMNS}


def teacher_cells(entry: Entry) -> dict[str, str]:
    """How the student's predictions go together with the teacher's; none without a teacher."""
    if not entry.values("agreement", "teacher"):
        return {}
    names = ("agreement", "inherited", "corrected", "regressed")
    cells = {f"{name} (%)": spread(entry.values(name, "teacher")) for name in names}
    return cells | {"teacher's mistakes": _mean(entry.values("teacher_mistakes", "teacher"), "{:,.0f}".format)}


def _mean(values: Sequence[float], form: Callable[[float], str]) -> str:
    return form(statistics.mean(values)) if values else ""


def cost_charts(entries: Sequence[Entry], known: Sequence[Latency | None]) -> list[Chart]:
    """Accuracy against size, and against latency on each device."""
    sizes = [Range(*entry.row.values("parameters")[:1] * 3) for entry in entries]
    note = SEEDS if any(len(entry.row.tests) > 1 for entry in entries) else ""
    plots = [("Top-1 (%) against size", note, "parameters", sizes)]
    for device in dict.fromkeys(each.device for each in known if each is not None):
        note = f"one image at a time on {device}, with the quartiles"
        costs = [each.ms if each is not None and each.device == device else None for each in known]
        plots.append(("Top-1 (%) against latency", note, "latency (ms)", costs))
    charts = []
    for title, note, x_label, costs in plots:
        rows = []
        for entry, cost in zip(entries, costs, strict=True):
            top1 = entry.row.values("top1")
            if cost is not None and all(map(math.isfinite, top1)):
                rows.append((entry, cost, Range(min(top1), statistics.mean(top1), max(top1))))
        if rows:
            charts.append(scatter(title, note, x_label, rows))
    return charts


def training_charts(entries: Sequence[Entry]) -> list[Chart]:
    charts = []
    for column, (title, note, log) in CURVES.items():
        groups = _by_objective(entries) if column == "train_loss" else {note: entries}
        for note, same in groups.items():
            rows = [(entry, summarise(list(entry.row.histories.values()), column)) for entry in same]
            rows = [(entry, points) for entry, points in rows if points]
            if rows:
                charts.append(curves(title, note, log, rows))
    return charts


def _by_objective(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Rows by what they minimise; only values of one function can be drawn on one axis."""
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(next(iter(entry.row.configs.values()))["objective"], []).append(entry)
    return kinds


def recipe(entry: Entry) -> dict[str, list[str]]:
    """How the runs of a row were made and measured; nothing else on the page reads all their settings."""
    row, configs = entry.row, list(entry.row.configs.values())
    settings = row.settings("role", "network", *FINGERPRINTS.values(), *SEED)
    counts = configs[0]["data"]
    images = [
        f"{counts[part]:,} {part} ({row.identity.get(name)})"
        for part, name in FINGERPRINTS.items()
        if counts[part]
    ]
    facts = {
        "Command": [config["command"] for config in configs],
        "Objective": [configs[0]["objective"]],
        "Recipe": [", ".join(f"{name} {value}" for name, value in settings.items())],
        "Images": [f"{', '.join(images)}, with their fingerprints"],
        "Seeds": [", ".join(map(str, sorted(row.tests)))],
        "Trained on": [f"{config['device']}, Python {config.get('python', 'unknown')}" for config in configs],
        "Seconds": [f"{duration(statistics.mean(row.seconds()))} of training, mean of the seeds"],
        "Measured on": [
            f"{each['device']}: {each['throughput']:,.0f} images/s in batches of {each['throughput_batch']}"
            for each in entry.analysis.values()
        ],
        "Checkpoints": [f"{each['checkpoint']}, epoch {each['epoch']}" for each in entry.analysis.values()],
    }
    return {name: list(dict.fromkeys(values)) for name, values in facts.items() if values}
