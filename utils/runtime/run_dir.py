"""A run directory: what it holds, whether it may be written to, and its rows and metrics on disk."""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError
from utils.runtime.files import SUFFIX, try_lock, write_text
from utils.runtime.identity import SETTING, SWEPT, Identity
from utils.runtime.ranges import COUNT, PERCENT, POSITIVE, Range, optional, require_ranges

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
NUMBER = (int, float)
# What config.json may hold beside what it must: the name of the run's folder, and what is known of its teacher.
OPTIONAL = {"defaults": dict, "label": str, "run": str, "teacher": dict, "teacher_run": dict}


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
COLUMN_RANGES = {
    **{"epoch": POSITIVE, "lr": Range(), "train_loss": Range(-1e18)},  # an objective may be below zero
    **{"train_top1": PERCENT, "train_top5": PERCENT, "val_loss": optional(Range())},
    **{"val_top1": optional(PERCENT), "val_top5": optional(PERCENT), "seconds": Range()},
}


class RunDir:
    """`results/<dataset>/<run>/seed<k>/`. The final metrics are in `results`: test.json, but for a sweep."""

    def __init__(self, path: Path, results: str = RESULTS):
        self.path = path
        self.config, self.history, self.last, self.best, self.accuracy, self.loss = (path / name for name in FILES)
        self.results, self.analysis, self.tensorboard = (
            path / name for name in (results, ANALYSIS, "tensorboard")
        )

    def prepare(self, identity: Identity, resume: bool, overwrite: bool, skip_finished: bool) -> str:
        """Decide what to do with the run of these settings: "start", "resume" or "skip"; writes nothing.

        Raises UserError where going on would lose what is there.
        """
        if overwrite or not any((self.path / name).exists() for name in (*FILES, self.results.name)):
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
            if not self.last.exists() and self.history.exists():
                raise UserError(f"{self.last} is missing, so the run cannot go on", "--overwrite starts it again")
            return "resume" if self.last.exists() else "start"
        raise UserError(
            f"{self.path} holds this run, unfinished", "--resume goes on with it, --overwrite starts again"
        )

    @contextmanager
    def locked(self):
        """Keep other processes out of this directory; the lock ends with the process, however that ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(try_lock(self.path / ".lock"))
            except BlockingIOError:
                raise UserError(
                    f"another run is writing to {self.path}", "wait for it, or use another --seed"
                ) from None
            for stale in self.path.glob(f".*{SUFFIX}"):
                stale.unlink()
            yield

    def clear(self) -> None:
        """Remove the files of an earlier run."""
        # Results first: what is left after a kill must not look like a finished run.
        measured = (self.results.name, self.analysis.name, *PLOTS)
        of_checkpoints = (
            f"{stem}.{name}" for stem in ("last", "best") for name in measured
        )  # what test.py writes
        for name in (*measured, *of_checkpoints, *reversed(FILES)):
            (self.path / name).unlink(missing_ok=True)
        for analysis in self.path.parent.parent.glob(f"*/{self.path.name}/{self.analysis.name}"):
            if self._is_compared_in(analysis):
                analysis.unlink()
        for events in self.tensorboard.glob("events.out.tfevents.*"):
            events.unlink()

    def _is_compared_in(self, analysis: Path) -> bool:
        """Whether the analysis of another run compares it with this one."""
        try:
            content = read_json(analysis)
        except UserError:
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
        config = read_json(self.config, identity=dict, data=dict, objective=str, device=str, command=str)
        if not _is_whole(config):
            raise UserError(f"{self.config} is damaged", AGAIN)
        identity, teacher = Identity.from_record(config), config.get("teacher", {})
        require_ranges(self.config, teacher, dict.fromkeys(("val_top1", "train_top1"), optional(PERCENT)), AGAIN)
        require_ranges(self.config, config["data"], dict.fromkeys(PARTS, COUNT), AGAIN)
        varied = {SETTING + name: Range(-1e18) for name in SWEPT if name in identity.settings()}
        require_ranges(self.config, identity.values, varied | {"seed": COUNT, "epochs": POSITIVE}, AGAIN)
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
            hint = f"put the checkpoint of this run back; python test.py --checkpoint {path} measures it as it is"
            raise UserError(f"{path} is of the run {own}/{seed}", hint)
        # The folder that is wrong: that of all seeds, or that of one.
        folder, right = (self.path, seed) if own == name else (self.path.parent, own)
        hint = f"move that copy out of {self.path.parent.parent}"
        if not folder.with_name(right).exists():
            hint = f"give it the name {right} back, or move it out of {self.path.parent.parent}"
        raise UserError(f"{folder} holds the run {own}{f'/{seed}' * (own == name)}", hint)

    def read_results(self) -> dict[str, Any]:
        """The final metrics. Raises UserError for a damaged file and for metrics that cannot be."""
        results = read_json(self.results, top1=NUMBER, top5=NUMBER, loss=NUMBER, parameters=int, epoch=int)
        require_ranges(self.results, results, RESULT_RANGES, AGAIN)
        if not isinstance(results.get(WEIGHTS, ""), str):
            raise UserError(f"{self.results} is damaged", AGAIN)
        return results

    def read_history(self) -> list[dict[str, float | None]]:
        """The rows of history.csv, numbers or None. Raises UserError for a damaged file and for what cannot be."""
        hint = f"remove {self.results}, then --resume repairs both"
        try:
            with open(self.history, newline="", encoding="utf-8", errors="replace") as file:
                rows = [{name: _number(name, row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
        except FileNotFoundError:
            raise UserError(f"{self.history} is missing", hint) from None
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise UserError(f"{self.history} is damaged", hint) from error
        for row in rows:
            require_ranges(self.history, row, COLUMN_RANGES, hint)
        return rows


def _is_whole(config: dict[str, Any]) -> bool:
    """Whether all that config.json holds of the run and of its teacher is of the kind that it must be."""
    if not all(isinstance(config.get(name, kind()), kind) for name, kind in OPTIONAL.items()):
        return False
    records = [config, *filter(None, [config.get("teacher_run")])]
    parts = [record.get(name, {}) for record in records for name in ("identity", "defaults", "data")]
    if not all(isinstance(part, dict) for part in parts):
        return False
    identity, *teachers = (Identity.from_record({"identity": {}} | record) for record in records)
    names = [identity.get("network"), *([identity.get("method")] if identity.get("role") == "kd" else [])]
    known = identity.get("role") in ROLES and all(isinstance(n, str) and n.isidentifier() for n in names)
    texts = [
        identity.get("teacher_sha256", ""),
        *(config.get("teacher", {}).get(n, "") for n in ("sha256", "note")),
    ]
    plain = all(each.is_plain() for each in (identity, *teachers))
    return known and plain and all(isinstance(text, str) for text in texts)


def _number(column: str, text: str) -> float | None:
    """A cell of history.csv; only validation metrics may be absent."""
    return None if not text and column.startswith("val_") else float(text)


def read_json(path: Path, **required: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a JSON object that has the keys of `required`, of these types. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error})", AGAIN) from error
    for key, kind in required.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise UserError(f"{path} is damaged (no {key!r} that it should have)", AGAIN)
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
