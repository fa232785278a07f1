"""What the page says, as plain data for its template: charts, the cells of its tables and lists of facts."""

import math
import statistics
from collections.abc import Callable, Sequence

from utils.reporting.format import GAIN, TEACHER, duration, row_cells, short, spread
from utils.reporting.page.charts import Chart, Point, curves, scatter, summarise
from utils.reporting.page.entry import Entry
from utils.reporting.table import Row, paired
from utils.runtime.identity import SEED
from utils.runtime.run_dir import ROLES

COLUMNS = (
    *("seeds", "top-1 (%)", GAIN, "parameters", "multiply-adds", "file size (bytes)", "latency (ms)"),
    *("top-5 (%)", "NLL (nats)", "ECE (%)", "agrees with the teacher (%)", TEACHER),
)
SEEDS = "mean of the seeds, with the range from the lowest to the highest"
CURVES = {  # column of history.csv: title, note, on a logarithmic scale
    "val_top1": ("Validation accuracy (%)", SEEDS, False),
    "val_loss": ("Validation loss", "cross-entropy in nats", True),
    "train_top1": ("Training accuracy (%)", "on augmented images", False),
    "train_loss": ("Training loss", "of the objective, which with a teacher is another than without", True),
}
PARTS = {"train": "data", "val": "val_data", "test": "test_data"}  # of the images, and their names in an identity


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


def table_cells(entry: Entry, rows: Sequence[Row]) -> dict[str, str]:
    """The cells of the table of all runs, by the titles of their columns."""
    row = entry.row
    cells = row_cells(list(row.tests.values()), row.seconds(), paired(row, rows), row.teacher_text)
    cells |= {
        "multiply-adds": _mean(entry.values("multiply_adds"), short),
        "file size (bytes)": _mean(entry.values("file_bytes"), short),
        "latency (ms)": _mean(entry.values("latency_ms"), "{:.2f}".format),
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


def cost_charts(entries: Sequence[Entry]) -> list[Chart]:
    devices = ", ".join(dict.fromkeys(device for entry in entries for device in entry.values("device")))
    sizes = [entry.row.values("parameters") for entry in entries]
    latencies = [entry.values("latency_ms") for entry in entries]
    charts = []
    for title, note, x_label, values in (
        ("Top-1 (%) against size", SEEDS, "parameters", sizes),
        ("Top-1 (%) against latency", f"one image at a time on {devices}", "latency (ms)", latencies),
    ):
        rows = []
        for entry, x in zip(entries, values, strict=True):
            top1 = entry.row.values("top1")
            if x and all(map(math.isfinite, top1)):
                rows.append((entry, Point(statistics.mean(x), statistics.mean(top1), min(top1), max(top1))))
        if rows:
            charts.append(scatter(title, note, x_label, rows))
    return charts


def training_charts(entries: Sequence[Entry]) -> list[Chart]:
    charts = []
    for column, (title, note, log) in CURVES.items():
        rows = [(entry, summarise(list(entry.row.histories.values()), column)) for entry in entries]
        rows = [(entry, points) for entry, points in rows if points]
        if rows:
            charts.append(curves(title, note, log, rows))
    return charts


def recipe(entry: Entry) -> dict[str, list[str]]:
    """How the runs of a row were made and measured; nothing else on the page reads all their settings."""
    row, configs = entry.row, list(entry.row.configs.values())
    settings = row.settings("role", "network", *PARTS.values(), *SEED)
    counts = configs[0]["data"]
    images = [f"{counts[part]:,} {part} ({row.identity.get(PARTS[part])})" for part in PARTS if counts[part]]
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
