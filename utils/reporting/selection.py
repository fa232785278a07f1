"""Which finished runs `test.py --all` measures: of which folder of results, and of which networks."""

import shlex
from collections import Counter
from pathlib import Path

from utils.runtime.errors import UsageError, UserError
from utils.runtime.identity import Identity
from utils.runtime.run_dir import RESULTS, RunDir


def only_folder(results_dir: Path, data_dir: str | None = None) -> Path | None:
    """The only folder in `results_dir` with finished runs, or None without any.

    Raises UsageError that lists them where there are several, and where the one is of images that are not in
    `data_dir`, the place that nobody named.
    """
    finished = sorted(results_dir.glob(f"*/*/seed*/{RESULTS}"))
    folders = Counter(path.parents[2] for path in finished)
    if len(folders) > 1:
        texts = [f"{folder.name} ({count} run{'s' * (count > 1)})" for folder, count in folders.items()]
        flags = dict.fromkeys(_dataset_flags(path) for path in finished)
        raise UsageError(f"{results_dir} holds results of {', '.join(texts)}", f"name one: {' or '.join(flags)}")
    flags = [text for text in map(_dataset_flags, finished) if "--data-dir" in text]
    if data_dir is not None and flags and f"--data-dir {shlex.quote(data_dir)}" not in flags[0]:
        raise UsageError(f"{finished[0].parents[2]} holds results of one's own images", f"name them: {flags[0]}")
    return next(iter(folders), None)


def _dataset_flags(results: Path) -> str:
    """The flags that name the folder that a run's results are in."""
    folder = results.parents[2].name
    try:
        config = RunDir(results.parent).read_config()
    except (UserError, OSError):
        return f"--dataset {folder}"
    if config["identity"].get("dataset") != "folder":
        return f"--dataset {folder}"
    return f"--dataset folder --data-dir {shlex.quote(str(config.get('data_dir', folder)))}"


def choose_runs(runs: list[RunDir], networks: dict[str, str]) -> list[RunDir]:
    """The runs whose networks are these, by role ("teacher", "student"); a student alone has no teacher.

    Raises UserError that names the runs where none has one of them.
    """
    own = [_networks_of(run) for run in runs]
    fits = [all(its.get(role, name) == name for role, name in networks.items()) for its in own]
    for role, name in networks.items():
        if not any(fit and its.get(role) == name for fit, its in zip(fits, own, strict=True)):
            others = ", ".join(dict.fromkeys(run.path.parent.name for run in runs))
            raise UserError(f"no finished run has the {role} {name}", f"there are {others}")
    return [run for run, fit in zip(runs, fits, strict=True) if fit]


def _networks_of(run: RunDir) -> dict[str, str]:
    """The networks of a run by role; none of a damaged one, of which it is said later what is wrong."""
    try:
        identity = Identity.from_record(run.read_config())
    except (UserError, OSError):
        return {}
    if identity["role"] == "teacher":
        return {"teacher": identity["network"]}
    teacher = {"teacher": identity.get("teacher")} if identity["role"] == "kd" else {}
    return teacher | {"student": identity["network"]}
