"""The page of a dataset, `results/<dataset>/README.md`: the table of all finished runs, and their plots."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.reporting.curves import Curves, plot_comparison
from utils.reporting.format import GAIN, align, duplicates_text, leave_out_top5, markdown_table, row_cells
from utils.reporting.statistics import Gain, paired_gain, summarise_gain
from utils.runtime.errors import UserError
from utils.runtime.files import write_text
from utils.runtime.identity import SEED, Identity
from utils.runtime.run_dir import ROLES, RunDir

COLUMNS = ("parameters", "top-1 (%)", "top-5 (%)", "epochs", "seconds", GAIN)


@dataclass
class Row:
    """The finished runs, one a seed, that differ in nothing but their seed."""

    name: str  # the run's folder, such as kd-cnn-t5
    note: str = ""  # what sets it apart from another row of the same folder
    configs: dict[int, dict[str, Any]] = field(default_factory=dict)  # by seed
    tests: dict[int, dict[str, Any]] = field(default_factory=dict)
    histories: dict[int, list[dict[str, float | None]]] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """That of one of its seeds."""
        return Identity.from_record(next(iter(self.configs.values())))

    @property
    def title(self) -> str:
        return self.identity.title() + self.note

    def settings(self, *without: str) -> dict[str, Any]:
        """What its identity is, but for the names in `without`."""
        return {name: value for name, value in self.identity.values.items() if name not in without}

    def values(self, key: str) -> list[float]:
        return [test[key] for test in self.tests.values()]

    def seconds(self) -> list[float]:
        return [sum(row["seconds"] for row in history) for history in self.histories.values()]


def write_report(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path."""
    rows = read_rows(dataset_dir)
    comparison = dataset_dir / "comparison.png"
    curves = [Curves(row.title, row.identity["role"], list(row.histories.values())) for row in rows]
    try:
        compared = plot_comparison(f"{dataset_dir.name}: validation accuracy", curves, comparison)
    except OSError as error:
        compared = False
        print(f"warning: no {comparison}: {error}", file=sys.stderr)
    page = dataset_dir / "README.md"
    write_text(page, "\n\n".join(_page(dataset_dir.name, rows, compared)) + "\n")
    return page


def table(rows: list[Row]) -> str:
    """The table in Markdown; accuracies are percent on the test images after the last epoch."""
    return markdown_table([cells | {"top-1 (%)": f"**{cells['top-1 (%)']}**"} for cells in _cells(rows)])


def terminal_table(rows: list[Row]) -> list[str]:
    """The lines of the same table and of each gain for a terminal."""
    return ["", *align(_cells(rows)).splitlines(), "", *summarise_gains(rows)]


def _cells(rows: list[Row]) -> list[dict[str, str]]:
    """The texts of the table by column, row by row."""
    several = any(len(row.tests) > 1 for row in rows)
    lines = []
    for row in rows:
        seeds = f" ({len(row.tests)} seed{'s' * (len(row.tests) > 1)})" if several else ""
        cells = row_cells(list(row.tests.values()), row.seconds(), paired(row, rows))
        lines.append({"model": row.title + seeds} | {title: cells[title] for title in COLUMNS})
    return leave_out_top5(lines)


def read_rows(dataset_dir: Path, hint: str = "python train.py --all") -> list[Row]:
    """A row for each folder of runs, or several where its seeds were trained with different settings.

    Raises UserError, with `hint`, where there is none.
    """
    rows: dict[str, list[Row]] = {}
    for path in sorted(dataset_dir.glob("*/seed*/test.json")):
        if not re.fullmatch(r"seed\d+", path.parent.name):
            continue  # a copy that somebody put aside
        run, name, seed = RunDir(path.parent), path.parent.parent.name, int(path.parent.name[4:])
        one = Row(name, "", {seed: run.read_config()}, {seed: run.read_results()}, {seed: run.read_history()})
        for row in rows.setdefault(name, []):
            if row.identity.same_row(one.identity):
                row.configs |= one.configs
                row.tests |= one.tests
                row.histories |= one.histories
                break
        else:
            rows[name].append(one)
    for same_name in rows.values():
        for row in same_name[1:]:
            row.note = f" ({', '.join(same_name[0].identity.explain(row.identity, *SEED))})"
    ordered = [row for same_name in rows.values() for row in same_name]
    if not ordered:
        raise UserError(f"{dataset_dir} holds no finished run", hint)
    return sorted(ordered, key=_order)


def _order(row: Row) -> tuple:
    """Teachers, then students alone, then each method by its temperature."""
    identity = row.identity
    temperature = identity.settings().get("temperature", 0)
    return ROLES.index(identity["role"]), identity.get("method", ""), temperature, row.name


def finished_runs(dataset_dir: Path, hint: str) -> list[RunDir]:
    """The run directories that the table is made from, teachers first; see `read_rows`."""
    rows = read_rows(dataset_dir, hint)
    return [RunDir(dataset_dir / row.name / f"seed{seed}") for row in rows for seed in sorted(row.tests)]


def paired(row: Row, rows: Iterable[Row]) -> Gain | None:
    """The gain in top-1 over the same student alone with the same recipe and images, seed by seed."""
    if row.identity["role"] != "kd":
        return None
    for other in rows:
        if other.identity["role"] == "student" and other.identity.same_but_for_teaching(row.identity):
            seeds = sorted(row.tests.keys() & other.tests.keys())
            if seeds:
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


def _page(dataset: str, rows: list[Row], compared: bool) -> Iterable[str]:
    yield f"# Knowledge distillation on {dataset}"
    gains = summarise_gains(rows)
    if gains:
        yield "\n".join(f"- {line}." for line in gains)
    yield table(rows)
    first = next(iter(rows[0].configs.values()))
    data, several = first["data"], any(len(row.tests) > 1 for row in rows)
    over_seeds = " ± standard deviation over seeds" if several else ""
    curves = f"; the curves are of {data['val']:,} images held out from it" if data["val"] else ""
    yield (
        f"Accuracy{over_seeds} on {data['test']:,} test images, read once, after the last epoch. Training had "
        f"{data['train']:,} images{curves}. Seconds are those of training alone. The gain compares runs of the "
        "same seed and recipe with and without a teacher."
        + (" Its interval is that of the mean, by Student's t." if several and gains else "")
    )
    for note in notes_on_images(rows):
        yield f"Note: {note}."
    if compared:
        yield "![Validation accuracy of all runs over epochs](comparison.png)"
    yield "## Each run"
    for row in rows:
        seed = min(row.tests)
        folder = f"{row.name}/seed{seed}"
        yield f"### {row.title[0].upper()}{row.title[1:]}"
        yield (
            f'<img src="{folder}/accuracy.png" width="49%" alt="accuracy of {row.title} over epochs"> '
            f'<img src="{folder}/loss.png" width="49%" alt="loss of {row.title} over epochs">'
        )
        config = row.configs[seed]
        yield f"Objective: `{config['objective']}`. Measured on {config['device']}.\n\n    {config['command']}"
    yield "`python test.py --all` makes the page `report.html` beside this one: calibration, classes, cost."
    yield "Made by `train.py` from the `config.json`, `history.csv` and `test.json` of each run."
