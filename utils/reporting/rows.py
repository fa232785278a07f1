"""The rows of a table, and the finished runs in a folder that they are made of, checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from utils.reporting.teachers import Teacher, format_hashes, format_teachers, teacher_of
from utils.runtime.errors import UserError, printable
from utils.runtime.identity import FINGERPRINTS, Identity
from utils.runtime.run_dir import PARTS, RESULTS, WEIGHTS, RunDir


class Images(NamedTuple):
    """The images of a part of the data, as a run recorded them."""

    count: int
    fingerprint: str | None  # None for runs of before it was recorded


@dataclass
class Row:
    """The finished runs, one a seed, that differ in nothing but their seed."""

    name: str  # the run's folder, such as kd-cnn-t5
    note: str = ""  # what sets it apart from other rows
    configs: dict[int, dict[str, Any]] = field(default_factory=dict)  # by seed
    tests: dict[int, dict[str, Any]] = field(default_factory=dict)
    histories: dict[int, list[dict[str, float | None]]] = field(default_factory=dict)
    runs: dict[int, RunDir] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """That of one of its seeds."""
        return Identity.from_record(next(iter(self.configs.values())))

    @property
    def title(self) -> str:
        return printable(self.identity.title() + self.note)

    @property
    def images(self) -> dict[str, Images]:
        """The images of each part; all seeds have the same."""
        counts, identity = next(iter(self.configs.values()))["data"], self.identity
        return {part: Images(counts[part], identity.get(FINGERPRINTS[part])) for part in PARTS}

    @property
    def teachers(self) -> dict[int, Teacher]:
        """Who taught each seed; empty for rows without a teacher."""
        teachers = {seed: teacher_of(config) for seed, config in self.configs.items()}
        return {seed: teacher for seed, teacher in teachers.items() if teacher is not None}

    @property
    def hashes(self) -> dict[int, str]:
        """The first 16 digits of the SHA-256 of each seed's weights; empty where it is not recorded."""
        return {seed: test.get(WEIGHTS, "")[:16] for seed, test in self.tests.items()}

    @property
    def teacher_text(self) -> str:
        """The cell that tells who taught it; for a teacher, the hashes by which its students name it."""
        if self.identity["role"] == "teacher":
            return format_hashes(self.hashes.values())
        return format_teachers(self.teachers.values())

    def settings(self, *without: str) -> dict[str, Any]:
        """What its identity is, but for the names in `without`."""
        return {name: value for name, value in self.identity.values.items() if name not in without}

    def values(self, key: str) -> list[float]:
        return [test[key] for test in self.tests.values()]

    def seconds(self) -> list[float]:
        return [sum(row["seconds"] for row in history) for history in self.histories.values()]

    def accepts(self, run: "Row") -> bool:
        """Whether a run differs from those of this row in nothing but its seed, nor its teacher from theirs."""
        pairs = ((mine, theirs) for mine in self.teachers.values() for theirs in run.teachers.values())
        same = self.identity.same_row(run.identity) and self.images == run.images
        return same and all(mine.same_kind(theirs) for mine, theirs in pairs)

    def add(self, run: "Row") -> None:
        self.configs |= run.configs
        self.tests |= run.tests
        self.histories |= run.histories
        self.runs |= run.runs


class LeftOut(NamedTuple):
    """Runs that no table can show, and why."""

    runs: list[RunDir]
    error: UserError | OSError

    def __str__(self) -> str:
        return printable(f"warning: left out of the table: {self.error}")


def read_run(run: RunDir) -> Row:
    """One finished run as a row of its own.

    Raises UserError for a damaged file, metrics that cannot be, and files of another run than the folder's name
    says.
    """
    config, results, history = run.read_config(), run.read_results(), run.read_history()
    run.require_own(config)
    seed, part = config["identity"]["seed"], run.results.stem
    counted, measured = config["data"][part], results.get("images")
    if measured not in (None, counted):
        what = f"{run.results} is of {measured:,} images, and {run.config} of {counted:,}"
        raise UserError(what, "python test.py measures the run again")
    return Row(run.path.parent.name, "", {seed: config}, {seed: results}, {seed: history}, {seed: run})


def read_runs(folder: Path, results: str = RESULTS) -> tuple[list[Row], list[LeftOut]]:
    """All finished runs in `folder`, each as a row of its own; and those that cannot be shown."""
    runs, left_out = [], {}
    for path in sorted(folder.glob(f"*/seed*/{results}")):
        if not re.fullmatch(r"seed\d+", path.parent.name):
            continue  # a copy that somebody put aside
        run = RunDir(path.parent, results)
        try:
            runs.append(read_run(run))
        except (UserError, OSError) as error:
            left_out.setdefault(str(error), LeftOut([], error)).runs.append(run)  # all seeds of a renamed folder
    copies = find_copies(runs)
    copied = {run.path for each in copies for run in each.runs}
    return [row for row in runs if not copied & {run.path for run in row.runs.values()}], [
        *left_out.values(),
        *copies,
    ]


def find_copies(rows: Sequence[Row]) -> list[LeftOut]:
    """Runs of which one is a copy: of equal weights under two seeds, or of one identity under two names.

    `rows` are of one seed each.
    """
    same_run: dict[str, list[RunDir]] = {}
    same_weights: dict[str, list[RunDir]] = {}
    for row in rows:
        ((seed, run),) = row.runs.items()
        same_run.setdefault(repr(sorted(row.identity.values.items())), []).append(run)
        if row.hashes[seed]:
            same_weights.setdefault(row.hashes[seed], []).append(run)
    copies = [(runs, "are the same run") for runs in same_run.values() if len(runs) > 1]
    copies += [
        (runs, "have equal weights, as no two seeds have")
        for runs in same_weights.values()
        if len({run.path.name for run in runs}) > 1  # with one seed, a method may end where another does
    ]
    hint = "one is a copy: move it out of {}, or --overwrite makes the run again"
    return [
        LeftOut(runs, UserError(f"{' and '.join(str(run.path) for run in runs)} {what}",
                                hint.format(runs[0].path.parent.parent)))
        for runs, what in copies
    ]  # fmt: skip
