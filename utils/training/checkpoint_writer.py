"""When the state of a training is written to its run directory."""

import time
from dataclasses import asdict
from typing import Any

from utils.runtime.checkpoint import map_tensors, save_checkpoint
from utils.runtime.run_dir import EpochRecord, RunDir
from utils.training.loop import TrainState

# Seconds from one writing to the next. On a GPU an epoch may take less than the writing after it: VGG19-BN with
# its optimizer is 160 MB, 0.5 to 0.8 s with checksums. What is not written yet is a copy in memory.
EVERY = {"cpu": 0.0, "cuda": 10.0}


class CheckpointWriter:
    """Keeps a training's state after each epoch; within the block's end, however that comes, it is on disk."""

    def __init__(self, run_dir: RunDir, training: TrainState, content: dict[str, Any], every: float):
        self.run_dir, self.training, self.content, self.every = run_dir, training, content, every
        self.unwritten: dict[str, tuple[dict, dict]] = {}  # "best" and "last": weights, and what goes with them
        self.written_at = time.monotonic()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_exception) -> None:
        self.write()

    def epoch_done(self, _record: EpochRecord) -> None:
        """Write the state after this epoch, or copy it to be written later."""
        training = self.training
        content = self.content | {"epoch": training.epoch, "metrics": asdict(training.history[-1])}
        finished = training.epoch == training.schedule.epochs
        now = finished or time.monotonic() - self.written_at >= self.every
        weights, state = training.result.state_dict(), training.state_dict()
        if not now:  # the next epoch changes them
            weights, state = map_tensors((weights, state), lambda tensor: tensor.detach().clone())
        if training.epoch == training.best_epoch:
            self.unwritten["best"] = weights, content
        self.unwritten["last"] = weights, content | state
        if now:
            self.write()

    def write(self) -> None:
        """Write what is not on disk yet; best.pt first: last.pt never tells of a best that is not there."""
        if not self.unwritten:
            return
        for name, path in (("best", self.run_dir.best), ("last", self.run_dir.last)):
            if name in self.unwritten:
                save_checkpoint(path, *self.unwritten[name])
        self.run_dir.write_history(self.training.history)
        self.unwritten, self.written_at = {}, time.monotonic()
