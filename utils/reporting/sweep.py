"""The page of a sweep, `results/<dataset>/sweep/README.md`: which temperature and alpha did best in validation."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.reporting.curves import plot_heat_map
from utils.reporting.format import TEACHER, markdown, markdown_table, spread
from utils.reporting.rows import Row, read_runs
from utils.reporting.teachers import describe_teacher
from utils.runtime.errors import UserError, printable
from utils.runtime.files import write_text
from utils.runtime.identity import SWEPT
from utils.runtime.run_dir import RunDir

VALIDATION = "val.json"  # the metrics of a finished run of a sweep, instead of test.json
FLAGS = {"temperature": "--temp", "alpha": "--alpha"}
Point = tuple[float, ...]  # of the settings that are varied


def write_sweep(folder: Path, like: list[RunDir]) -> Path:
    """Rank all finished runs of sweeps by validation accuracy after the last epoch; returns the page's path.

    The page has a table for each method among the runs `like`, with every run in `folder` that differs from one of
    them in nothing but temperature, alpha and seed. Runs that cannot be shown are left out, and named on stderr.
    """
    runs, left_out = read_runs(folder, VALIDATION)
    for each in left_out:
        print(each, file=sys.stderr)
    parts: list[str] = []
    first: list[Row] = []
    by_path = {run.path: row for row in runs for run in row.runs.values()}
    for row in (by_path[run.path] for run in like if run.path in by_path):
        if not any(_alike(row, other) for other in first):
            first.append(row)
            parts += _part(folder, row, [other for other in runs if _alike(row, other)])
    if not parts:
        raise UserError(f"{folder} holds no finished run", "python train.py --sweep")
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")
    return folder / "README.md"


def _alike(row: Row, other: Row) -> bool:
    one, two = row.identity, other.identity
    return one.same_sweep(two) and one.settings().keys() == two.settings().keys() and row.images == other.images


def _part(folder: Path, like: Row, runs: Sequence[Row]) -> list[str]:
    """The title, the heat map, the table and the commands of one method, of which `like` is a run."""
    identity, config = like.identity, next(iter(like.configs.values()))
    names = [name for name in SWEPT if name in identity.settings()]
    points: dict[Point, Row] = {}
    commands: dict[str, None] = {}
    for run in runs:
        point = tuple(run.identity.settings()[name] for name in names)
        points.setdefault(point, Row(run.name)).add(run)
        commands |= {each["command"]: None for each in run.configs.values()}
    means = {point: statistics.mean(row.values("top1")) for point, row in points.items()}
    ranked = sorted(means, key=lambda point: (-means[point], point))
    network, data, method = identity["network"], config["data"], identity["method"]
    best = " ".join(f"{FLAGS[name]} {value:g}" for name, value in zip(names, ranked[0], strict=True))
    print(f"best in validation: {method} {best} with {means[ranked[0]]:.2f} %")
    columns = [{"temperature": "T"}.get(name, name) for name in names]
    rows = [
        dict(zip(columns, (f"{value:g}" for value in point), strict=True))
        | {"validation top-1 (%)": spread(points[point].values("top1")), "seeds": f"{len(points[point].tests)}"}
        | {TEACHER: points[point].teacher_text}
        for point in ranked
    ]
    title = f"{' and '.join(names).capitalize()} of {identity.label} for {network} on {folder.parent.name}"
    part = [f"# {markdown(title)}"]
    if len(names) == 2:
        plot = folder / ("heatmap.png" if method == "kd" else f"heatmap-{method}.png")
        try:
            plot_heat_map(f"{network}: validation top-1 (%)", means, plot)
        except OSError as error:
            print(f"warning: no {plot}: {error}", file=sys.stderr)
        part.append(f"![Heat map of validation accuracy]({plot.name})")
    over_seeds = ", ± standard deviation over seeds" if any(len(row.tests) > 1 for row in points.values()) else ""
    flag = "--kd True" if method == "kd" else f"--kd True --method {method}"
    remarks = []
    if not _one_teacher_a_seed(points.values()):
        remarks.append("not all had the same teacher, so their order tells of teachers too")
    remarks += dict.fromkeys(
        text
        for run in runs
        for teacher in run.teachers.values()
        for text in describe_teacher(run.identity, teacher, {}, complete=False)
    )
    return [
        *part,
        markdown_table(rows),
        *([f"**Of these runs: {markdown('; '.join(remarks))}.**"] if remarks else []),
        f"Accuracy after the last epoch{over_seeds}, on {data['val']:,} images held out from training, which had "
        f"{data['train']:,}. The test images were not used. The best of many is a little better than it "
        "will be elsewhere.",
        f"Best: `{flag} {best}`. Measured on {markdown(config['device'])}.",
        "\n".join(f"    {printable(command)}" for command in commands),
    ]


def _one_teacher_a_seed(rows: Iterable[Row]) -> bool:
    """Whether all points of a seed had one teacher, and those of different seeds differ in nothing else."""
    teachers = [(seed, teacher) for row in rows for seed, teacher in row.teachers.items()]
    hashes = {seed: {teacher.sha256 for other, teacher in teachers if other == seed} for seed, _ in teachers}
    same_kind = all(first.same_kind(each) for _, first in teachers[:1] for _, each in teachers)
    return same_kind and all(len(same) == 1 for same in hashes.values())
