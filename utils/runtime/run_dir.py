"""A run directory: what it holds, whether it may be written to, and whether its files are of that run."""

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.runtime.atomic import fsync, remove_abandoned, try_lock
from utils.runtime.errors import DamagedFile, UserError, reading
from utils.runtime.files import write_text
from utils.runtime.history import read_history
from utils.runtime.identity import Identity
from utils.runtime.json_file import AGAIN, read_json, write_json
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
ROLES = ("teacher", "student", "kd")
PARTS = ("train", "val", "test")
TEACHER = dict.fromkeys(("val_top1", "train_top1"), optional(PERCENT))  # as it was measured before the training


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

    def unmark_overwrite(self) -> None:
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
        of_checkpoints = (f"{stem}.{name}" for stem in ("last", "best") for name in measured)  # of test.py
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
        kind, seed = f"{kind}-{identity.get('network')}", f"seed{identity.get('seed')}"
        name = self.path.parent.name
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
        """The rows of history.csv, see `read_history`."""
        return read_history(self.history, f"remove {self.results}, then --resume repairs both")
