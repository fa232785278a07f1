"""A run directory: what it holds, whether it may be written to, and its rows and metrics on disk."""

import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from utils.runtime.atomic import fsync, remove_abandoned, try_lock
from utils.runtime.errors import DamagedFile, UserError, reading
from utils.runtime.files import write_text
from utils.runtime.identity import Identity
from utils.runtime.ranges import COUNT, PERCENT, POSITIVE, Range, optional, require_ranges
from utils.runtime.regular_file import read_regular
from utils.runtime.schema import LARGEST, fits

FILES = ("config.json", "history.csv", "last.pt", "best.pt", "accuracy.png", "loss.png")
ANALYSIS = "analysis.json"
RESULTS = "test.json"  # written last: a run that has it is finished
RESULT_RANGES = {
    "images": optional(POSITIVE),  # what is optional, earlier runs did not record
    **{"top1": PERCENT, "top5": PERCENT, "loss": Range(), "ece": optional(PERCENT)},
    **{"parameters": COUNT, "epoch": POSITIVE},
}
WEIGHTS = "weights_sha256"  # of the network that the metrics were measured on
RESULT_KEYS = (*RESULT_RANGES, "model", "dataset", WEIGHTS)
PLOTS = ("reliability.png", "confusion.png", "mistakes.png")
AGAIN = "--overwrite makes that run again"
ROLES = ("teacher", "student", "kd")
PARTS = ("train", "val", "test")
TEACHER = {
    "val_top1": optional(PERCENT),
    "train_top1": optional(PERCENT),
}  # as it was measured before the training


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
RECORD = {
    **{"epoch": POSITIVE, "lr": Range(), "train_loss": Range(-LARGEST)},  # an objective may be below zero
    **{"train_top1": PERCENT, "train_top5": PERCENT, "val_loss": optional(Range())},
    **{"val_top1": optional(PERCENT), "val_top5": optional(PERCENT), "seconds": Range()},
}


class RunDir:
    """`results/<dataset>/<run>/seed<k>/`. The final metrics are in `results`: test.json, but for a sweep.

    Two files are there only while a run is replaced. `overwrite` has the settings of the run that is to come, for
    `--resume` to finish what `--overwrite` began. `replaced` says that what is beside it is no run any more: it is
    the config.json of the old run, and to rename it is the one step that decides.
    """

    def __init__(self, path: Path, results: str = RESULTS):
        self.path = path
        self.config, self.history, self.last, self.best, self.accuracy, self.loss = (path / name for name in FILES)
        self.results, self.analysis, self.tensorboard = (
            path / name for name in (results, ANALYSIS, "tensorboard")
        )
        self.lock, self.overwrite, self.replaced = (
            path / name for name in (".lock", ".overwrite.json", ".replaced.json")
        )

    def prepare(self, identity: Identity, resume: bool, overwrite: bool, skip_finished: bool) -> str:
        """Decide what to do with the run of these settings: "start", "resume" or "skip"; writes nothing.

        Raises UserError where going on would lose what is there.
        """
        if overwrite or not self._has_epochs() or (resume and self._is_to_be_replaced(identity)):
            return "start"
        changed = identity.explain(Identity.from_record(self.read_config()))
        if changed:
            hint = "a run goes on only as it began: --overwrite replaces it, another --results-dir keeps both"
            raise UserError(f"{self.path} holds a run with other settings: {', '.join(changed)}", hint)
        if self.results.exists():
            if resume or skip_finished:
                return "skip"
            raise UserError(
                f"{self.path} holds this run, finished", "python test.py measures it, --overwrite repeats it"
            )
        if resume:
            if not self.last.exists():
                raise UserError(f"{self.last} is missing, so the run cannot go on", "--overwrite starts it again")
            return "resume"
        raise UserError(
            f"{self.path} holds this run, unfinished", "--resume goes on with it, --overwrite starts again"
        )

    def _has_epochs(self) -> bool:
        """Whether something would be lost here: a run after its first epoch, or files that no run wrote."""
        if self.replaced.exists():
            return False
        if self.config.exists():
            return any(path.exists() for path in (self.history, self.last, self.results))
        return self._has_files()

    def _has_files(self) -> bool:
        return any((self.path / name).exists() for name in (*FILES, self.results.name))

    def mark_overwrite(self, identity: Identity) -> None:
        """Record that a run of these settings is to replace what is here, which stays until that run begins."""
        if self._has_files():
            write_json(self.overwrite, identity.to_record())

    def _is_to_be_replaced(self, identity: Identity) -> bool:
        """Whether an earlier command was to overwrite this run by one of these settings."""
        try:
            new = replace(Identity.from_record(read_json(self.overwrite, identity=dict)), partial=True)
        except (UserError, OSError):
            return False
        return not new.differing(identity) and not (identity.partial and identity.differing(new))

    def keep(self) -> None:
        """Let the run that is here stay, also where `mark_overwrite` was to have it replaced."""
        self.overwrite.unlink(missing_ok=True)

    def require_free(self) -> None:
        """Raise UserError while another process trains this run."""
        if os.path.lexists(self.lock):
            with self._lock():
                pass

    @contextmanager
    def locked(self):
        """Keep other processes out of this directory; the lock ends with the process, however that ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            remove_abandoned(self.path)
            yield

    @contextmanager
    def _lock(self):
        with ExitStack() as stack:
            try:
                stack.enter_context(try_lock(self.lock))
            except BlockingIOError:
                what = f"another process is training {self.path}"
                raise UserError(what, "wait for it, or use another --seed") from None
            yield

    def clear(self) -> None:
        """Remove an earlier run. Whenever that is cut short, the run is whole but for results, or it is gone.

        After results and plots, which --resume makes again, it is gone by one rename; what is left then is no run.
        """
        measured = (self.results.name, self.analysis.name, *PLOTS)
        of_checkpoints = (  # what test.py writes
            f"{stem}.{name}" for stem in ("last", "best") for name in measured
        )
        for name in (*measured, *of_checkpoints):
            (self.path / name).unlink(missing_ok=True)
        if self._has_files():
            if self.config.exists():
                os.replace(self.config, self.replaced)
            else:
                write_text(self.replaced, "")
            fsync(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for analysis in self.path.parent.parent.glob(f"*/{self.path.name}/{self.analysis.name}"):
            if self._is_compared_in(analysis):
                analysis.unlink()
        if not self.tensorboard.is_symlink():
            for events in self.tensorboard.glob("events.out.tfevents.*"):
                events.unlink()
        self.overwrite.unlink(missing_ok=True)
        if self.replaced.exists():
            fsync(self.path)  # all that is gone must be gone after a power cut, too
            self.replaced.unlink()

    def _is_compared_in(self, analysis: Path) -> bool:
        """Whether the analysis of another run compares it with this one."""
        try:
            content = read_json(analysis)
        except (UserError, OSError):
            return False
        others = (content.get(name) for name in ("teacher", "baseline"))
        return any(isinstance(other, dict) and other.get("run") == self.path.parent.name for other in others)

    def write_history(self, history: Sequence[EpochRecord]) -> None:
        """Write history.csv whole: a torn line of an earlier process is gone after it."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in history:
            values = asdict(record).values()
            writer.writerow("" if value is None else f"{value:.6g}" for value in values)
        write_text(self.history, text.getvalue())

    def read_config(self) -> dict[str, Any]:
        """What config.json records of this run. Raises UserError for a damaged file."""
        counts = dict.fromkeys(PARTS, int)
        config = read_json(self.config, identity=dict, data=counts, objective=str, device=str, command=str)
        with reading(self.config, AGAIN):
            identity = Identity.from_record(config)
            known = identity.get("role") in ROLES and "network" in identity.values
            if not known or (identity["role"] == "kd" and "method" not in identity.values):
                raise ValueError("it names no role, network or method")
            teacher, of_teacher = (config.get(name, {}) for name in ("teacher", "teacher_run"))
            texts = config.get("run", ""), *(teacher.get(name, "") for name in ("sha256", "note"))
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("it names its folder or its teacher by what is no text")
            Identity.from_record(of_teacher)
        require_ranges(self.config, teacher, TEACHER, AGAIN)
        require_ranges(self.config, config["data"], dict.fromkeys(PARTS, COUNT), AGAIN)
        require_ranges(self.config, identity.values, {"seed": COUNT, "epochs": POSITIVE}, AGAIN)
        return config

    def require_own(self, record: dict[str, Any], path: Path | None = None) -> None:
        """Check that `record`, of config.json or the checkpoint at `path`, is of the run that this folder names.

        Raises UserError for a copy, a renamed folder and a checkpoint of another run.
        """
        identity = Identity.from_record(record)
        kind = identity.get("method" if identity.get("role") == "kd" else "role")
        kind, name, seed = (
            f"{kind}-{identity.get('network')}",
            self.path.parent.name,
            f"seed{identity.get('seed')}",
        )
        # Runs of before it was recorded: of their name, all but the settings of the method is known.
        own = record.get("run") or (name if name == kind or name.startswith(f"{kind}-") else kind)
        if (own, seed) == (name, self.path.name):
            return
        if path is not None:
            hint = "put the checkpoint of this run back, or --overwrite makes the run again"
            raise UserError(f"{path} is of the run {own}/{seed}", hint)
        # The folder that is wrong: that of all seeds, or that of one.
        folder, right = (self.path, seed) if own == name else (self.path.parent, own)
        hint = f"move that copy out of {self.path.parent.parent}"
        if not folder.with_name(right).exists():
            hint = f"give it the name {right} back, or move it out of {self.path.parent.parent}"
        raise UserError(f"{folder} holds the run {own}{f'/{seed}' * (own == name)}", hint)

    def read_results(self) -> dict[str, Any]:
        """The final metrics. Raises UserError for a damaged file and for metrics that cannot be."""
        results = read_json(self.results)
        require_ranges(self.results, results, RESULT_RANGES, AGAIN)
        if not isinstance(results.get(WEIGHTS, ""), str):
            raise DamagedFile(f"{self.results} is damaged ({WEIGHTS} is no text)", AGAIN)
        return results

    def read_history(self) -> list[dict[str, float | None]]:
        """The rows of history.csv, numbers or None, one at least. Raises UserError for a damaged file."""
        hint = f"remove {self.results}, then --resume repairs both"
        try:
            data = read_regular(self.history)
        except FileNotFoundError:
            raise UserError(f"{self.history} is missing", hint) from None
        with reading(self.history, hint):
            text = io.StringIO(data.decode(errors="replace"), newline="")
            rows = [{name: _number(name, row[name]) for name in COLUMNS} for row in csv.DictReader(text)]
            if not rows:
                raise ValueError("it has no epoch")
        for row in rows:
            require_ranges(self.history, row, RECORD, hint)
        return rows


def _number(column: str, text: str) -> float | None:
    """A cell of history.csv; only validation metrics may be absent."""
    return None if not text and column.startswith("val_") else _bounded(float(text))


def _bounded(value: float) -> float:
    """`value`; raises ValueError for one that is not finite or beyond what is calculated with."""
    if not abs(value) < LARGEST:
        raise ValueError(f"{value:g} is no number that it may hold")
    return value


def read_json(path: Path, **required: Any) -> dict[str, Any]:
    """Read a JSON object that has the keys of `required`, of these kinds (see `fits`), and only finite numbers.

    Raises DamagedFile for anything else, OSError for what cannot be read.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing", AGAIN) from None
    with reading(path, AGAIN):
        content = json.loads(
            data.decode(errors="surrogateescape"),
            parse_int=lambda text: _bounded(int(text)),
            parse_float=lambda text: _bounded(float(text)),
            parse_constant=lambda text: _bounded(float(text)),
        )
        json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")  # so that it can be written again
        if not isinstance(content, dict):
            raise ValueError("it is no object with keys")
    for key, kind in required.items():
        if not fits(content.get(key), kind):
            raise DamagedFile(f"{path} is damaged (no {key!r} that it should have)", AGAIN)
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
