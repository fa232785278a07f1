"""The page of a dataset, `results/<dataset>/README.md`: the table of all finished runs, and their plots."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.plots import plot_comparison
from utils.results import ROLES, RunDir
from utils.storage import write_text


@dataclass
class Row:
    """The finished runs, one a seed, that differ in nothing but their seed."""

    name: str  # the run's folder, such as kd-cnn-t5
    configs: dict[int, dict[str, Any]] = field(default_factory=dict)  # by seed
    tests: dict[int, dict[str, Any]] = field(default_factory=dict)
    histories: dict[int, list[dict[str, float | None]]] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        return next(iter(self.configs.values()))["identity"]

    @property
    def title(self) -> str:
        identity = self.identity
        if identity["role"] == "kd":
            return f"student {identity['network']}, KD at T = {identity['temp']:g}"
        alone = ", alone" if identity["role"] == "student" else ""
        return f"{identity['role']} {identity['network']}{alone}"

    def values(self, key: str) -> list[float]:
        return [test[key] for test in self.tests.values()]

    def seconds(self) -> list[float]:
        return [sum(row["seconds"] for row in history) for history in self.histories.values()]


def write_report(dataset_dir: Path) -> Path:
    """Write the page of all finished runs under `dataset_dir`; returns its path."""
    rows = _read_rows(dataset_dir)
    if not rows:
        raise UserError(f"{dataset_dir} holds no finished run", "python train.py --all")
    comparison = dataset_dir / "comparison.png"
    titled = {row.title: list(row.histories.values()) for row in rows}
    compared = plot_comparison(f"{dataset_dir.name}: validation accuracy", titled, comparison)
    page = dataset_dir / "README.md"
    write_text(page, "\n\n".join(_page(dataset_dir.name, rows, compared)) + "\n")
    return page


def table(rows: list[Row]) -> str:
    """The table in Markdown; accuracies are percent on the test images after the last epoch."""
    several = any(len(row.tests) > 1 for row in rows)
    lines = [
        "| model | parameters | top-1 (%) | top-5 (%) | epochs | seconds | gain over the student alone |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        test = next(iter(row.tests.values()))
        seeds = f" ({len(row.tests)} seeds)" if several else ""
        cells = (
            row.title + seeds,
            f"{test['parameters']:,}",
            f"**{_spread(row.values('top1'))}**",
            _spread(row.values("top5")),
            f"{test['epoch']}",
            f"{statistics.mean(row.seconds()):,.0f}",
            _gain(row, rows),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _read_rows(dataset_dir: Path) -> list[Row]:
    rows: dict[str, Row] = {}
    for path in sorted(dataset_dir.glob("*/seed*/test.json")):
        run = RunDir(path.parent)
        row = rows.setdefault(path.parent.parent.name, Row(path.parent.parent.name))
        seed = int(path.parent.name.removeprefix("seed"))
        row.configs[seed], row.tests[seed] = run.read_config(), run.read_test()
        row.histories[seed] = run.read_history()
    return sorted(
        rows.values(), key=lambda row: (ROLES.index(row.identity["role"]), row.identity.get("temp", 0), row.name)
    )


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _gain(row: Row, rows: Iterable[Row]) -> str:
    """Difference in top-1 to the same student alone, seed by seed where both have the same seeds."""
    if row.identity["role"] != "kd":
        return ""
    for other in rows:
        if other.identity["role"] == "student" and other.identity["network"] == row.identity["network"]:
            seeds = sorted(row.tests.keys() & other.tests.keys())
            gains = [row.tests[seed]["top1"] - other.tests[seed]["top1"] for seed in seeds]
            if gains:
                spread = f" ± {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
                return f"{statistics.mean(gains):+.2f}{spread}"
    return ""


def _page(dataset: str, rows: list[Row], compared: bool) -> Iterable[str]:
    yield f"# Knowledge distillation on {dataset}"
    yield table(rows)
    first = next(iter(rows[0].configs.values()))
    data, several = first["data"], any(len(row.tests) > 1 for row in rows)
    spread = " ± standard deviation over seeds" if several else ""
    yield (
        f"Accuracy{spread} on {data['test']:,} test images, read once, after the last epoch; the curves are of "
        f"{data['val']:,} images held out from training, which had {data['train']:,}. "
        "Seconds are those of training alone. The gain compares the same seeds; the student has the same recipe "
        "with and without a teacher."
    )
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
    yield "Made by `train.py` from the `config.json`, `history.csv` and `test.json` of each run."
