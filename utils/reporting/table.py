"""The page of a dataset, `results/<dataset>/README.md`: the table of all finished runs, and their plots."""

import html
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from utils.reporting.curves import Curves, plot_comparison
from utils.reporting.format import (
    GAIN,
    TEACHER,
    TOP5,
    align,
    code,
    duplicates_text,
    leave_out_top5,
    markdown,
    markdown_table,
    row_cells,
)
from utils.reporting.methods import method_tables
from utils.reporting.notes import find_notes, shared_counts
from utils.reporting.rows import LeftOut, Row, read_runs
from utils.reporting.statistics import Gain, paired_gain, summarise_gain
from utils.runtime.errors import UserError, printable
from utils.runtime.files import write_text
from utils.runtime.run_dir import PARTS, ROLES, RunDir

METHODS_NOTE = (
    "By the gain over the student alone in top-1 on the test images after the last epoch, paired by seed; the "
    "interval is that of the mean. The best epoch on the validation images stands apart: nothing was chosen by "
    "it. Milliseconds are those of the fastest epoch, without the making of the teacher's cached outputs."
)
COLUMNS = (TEACHER, "parameters", "top-1 (%)", TOP5, "epochs", "seconds", GAIN)


def write_report(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path.

    Runs that cannot be shown are left out, and named on stderr. Raises UserError where there is nothing to show.
    """
    rows, left_out = read_table(dataset_dir)
    for each in left_out:
        print(each, file=sys.stderr)
    if not rows:
        raise UserError(f"{dataset_dir} holds no finished run", "python train.py --all")
    comparison = dataset_dir / "comparison.png"
    curves = [Curves(row.title, row.identity["role"], list(row.histories.values())) for row in rows]
    try:
        compared = plot_comparison(f"{dataset_dir.name}: validation accuracy", curves, comparison)
    except (OSError, ValueError) as error:  # of a title that matplotlib takes for a formula
        compared = False
        print(printable(f"warning: no {comparison}: {error}", 300), file=sys.stderr)
    page = dataset_dir / "README.md"
    write_text(page, "\n\n".join(_page(dataset_dir.name, rows, left_out, compared)) + "\n")
    return page


def table(rows: list[Row]) -> str:
    """The table in Markdown; accuracies are percent on the test images after the last epoch."""
    return markdown_table(_cells(rows), strong="top-1 (%)")


def terminal_table(rows: list[Row]) -> list[str]:
    """The lines of the same table, without the names of teachers, and of each gain for a terminal."""
    cells = [{title: text for title, text in row.items() if title != TEACHER} for row in _cells(rows)]
    return ["", *align(cells).splitlines(), "", *summarise_gains(rows)]


def _cells(rows: list[Row]) -> list[dict[str, str]]:
    """The texts of the table by column, row by row."""
    several = any(len(row.tests) > 1 for row in rows)
    columns = [title for title in COLUMNS if title != TEACHER or any(row.teachers for row in rows)]
    lines = []
    for row in rows:
        seeds = f" ({len(row.tests)} seed{'s' * (len(row.tests) > 1)})" if several else ""
        cells = row_cells(list(row.tests.values()), row.seconds(), paired(row, rows), row.teacher_text)
        lines.append({"model": row.title + seeds} | {title: cells[title] for title in columns})
    return leave_out_top5(lines)


def read_table(dataset_dir: Path) -> tuple[list[Row], list[LeftOut]]:
    """A row for each folder of runs, or several where its seeds were trained with different settings.

    What sets rows of one folder apart, images that not all rows have and teachers that are not the table's are in
    the titles. Runs that cannot be shown are left out.
    """
    runs, left_out = read_runs(dataset_dir)
    rows: dict[str, list[Row]] = {}
    for run in runs:
        same_name = rows.setdefault(run.name, [])
        row = next((row for row in same_name if row.accepts(run)), None)
        if row is None:
            same_name.append(run)
        else:
            row.add(run)
    ordered = sorted((row for same_name in rows.values() for row in same_name), key=_order)
    notes = [find_notes(row, rows[row.name][0], ordered) for row in ordered]
    for row, texts in zip(ordered, notes, strict=True):
        row.note = f" ({'; '.join(texts)})" if texts else ""
    return ordered, left_out


def read_rows(dataset_dir: Path, hint: str = "python train.py --all") -> list[Row]:
    """The rows of `read_table`. Where there is none, raises UserError with `hint`, or of the first left out."""
    rows, left_out = read_table(dataset_dir)
    if not rows:
        raise left_out[0].error if left_out else UserError(f"{dataset_dir} holds no finished run", hint)
    return rows


def _order(row: Row) -> tuple:
    """Teachers, then students alone, then each method by its temperature."""
    identity = row.identity
    temperature = identity.settings().get("temperature", 0)
    return ROLES.index(identity["role"]), identity.get("method", ""), temperature, row.name


def finished_runs(dataset_dir: Path, hint: str) -> list[RunDir]:
    """The run directories of the table, teachers first, then those that it leaves out: measuring may mend them."""
    rows, left_out = read_table(dataset_dir)
    runs = [row.runs[seed] for row in rows for seed in sorted(row.runs)] + [
        run for each in left_out for run in each.runs
    ]
    if not runs:
        raise UserError(f"{dataset_dir} holds no finished run", hint)
    return runs


def paired(row: Row, rows: Iterable[Row]) -> Gain | None:
    """The gain in top-1 over the same student alone with the same recipe and images, seed by seed."""
    if row.identity["role"] != "kd":
        return None
    for other in rows:
        if other.identity["role"] != "student" or other.images != row.images:
            continue
        seeds = sorted(row.tests.keys() & other.tests.keys())
        if seeds and other.identity.same_but_for_teaching(row.identity):
            return paired_gain(*([each.tests[seed]["top1"] for seed in seeds] for each in (row, other)))
    return None


def summarise_gains(rows: Sequence[Row]) -> list[str]:
    """A line for each distilled student: whether it gains, and how surely."""
    distilled = [row for row in rows if row.identity["role"] == "kd"]
    several = len({row.identity["network"] for row in distilled}) > 1
    lines = []
    for row in distilled:
        gain = paired(row, rows)
        label, title = row.identity.label, row.identity.method_title()
        of = f" of {row.identity['network']}" if several else ""
        name = f"{label}{of}{title.removeprefix(label)}{row.note}"
        if gain is not None:
            lines.append(summarise_gain(name, gain))
        else:
            lines.append(f"{name}: no student alone with the same recipe to compare with")
    return lines


def notes_on_images(rows: Sequence[Row]) -> list[str]:
    """What readers must know of the images of these rows: equal ones in several parts."""
    titles: dict[str, list[str]] = {}
    for row in rows:
        texts = (duplicates_text(config.get("duplicates"), config["data"]) for config in row.configs.values())
        for text in filter(None, dict.fromkeys(texts)):
            titles.setdefault(text, []).append(row.title)
    return [text if len(of) == len(rows) else f"{text} ({', '.join(of)})" for text, of in titles.items()]


def _page(dataset: str, rows: list[Row], left_out: Sequence[LeftOut], compared: bool) -> Iterable[str]:
    yield f"# Knowledge distillation on {markdown(dataset)}"
    gains = summarise_gains(rows)
    if gains:
        yield "\n".join(f"- {markdown(line)}." for line in gains)
    yield table(rows)
    yield _explanation(rows, bool(gains))
    for network, cells in method_tables(rows, [paired(row, rows) for row in rows]).items():
        yield f"## Methods for {markdown(network)}"
        yield markdown_table([{"model": row.title} | each for row, each in cells], "gain")
        yield METHODS_NOTE
    for note in notes_on_images(rows):
        yield f"Note: {markdown(note)}."
    if left_out:
        runs = sorted({f"{run.path.parent.name}/{run.path.name}" for each in left_out for run in each.runs})
        names = ", ".join(code(name) for name in runs)
        yield f"Left out, because their files or the names of their folders cannot be right: {names}."
    if compared:
        yield "![Validation accuracy of all runs over epochs](comparison.png)"
    yield "## Each run"
    for row in rows:
        seed = min(row.tests)
        folder = quote(os.fsencode(f"{row.name}/seed{seed}"))
        title = html.escape(row.title)
        yield f"### {markdown(row.title[0].upper() + row.title[1:])}"
        yield (
            f'<img src="{folder}/accuracy.png" width="49%" alt="accuracy of {title} over epochs"> '
            f'<img src="{folder}/loss.png" width="49%" alt="loss of {title} over epochs">'
        )
        config = row.configs[seed]
        objective, device = code(config["objective"]), markdown(config["device"])
        yield f"Objective: {objective}. Measured on {device}.\n\n    {printable(config['command'])}"
    yield "`python test.py --all` makes the page `report.html` beside this one: calibration, classes, cost."
    yield "Made by `train.py` from the `config.json`, `history.csv` and `test.json` of each run."


def _explanation(rows: list[Row], gains: bool) -> str:
    """What the figures of the table are, in sentences."""
    counts, several = shared_counts(rows), any(len(row.tests) > 1 for row in rows)
    over_seeds = " ± standard deviation over seeds" if several else ""
    images = f"{counts['test']:,} test images" if "test" in counts else "the test images that its row names"
    parts = [f"Accuracy{over_seeds} on {images}, read once, after the last epoch."]
    if "train" in counts:
        curves = f"; the curves are of {counts['val']:,} images held out from it" if counts.get("val") else ""
        parts.append(f"Training had {counts['train']:,} images{curves}.")
    parts.append("Seconds are those of training alone.")
    parts.append("The gain compares runs of the same seed and recipe with and without a teacher.")
    if several and gains:
        parts.append("Its interval is that of the mean, by Student's t.")
    if len(counts) < len(PARTS):
        parts.append("Rows of different images are not compared.")
    teachers = [teacher for row in rows for teacher in row.teachers.values()]
    if teachers:
        top1 = "its top-1 before the student's training and " * any(each.top1 is not None for each in teachers)
        parts.append(f"A teacher is named by {top1}the first digits of its weights' SHA-256.")
    return " ".join(parts)
