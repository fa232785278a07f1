"""When the state of a training is written to its run directory."""

import time
from dataclasses import asdict
from typing import Any

import torch

from utils.runtime.checkpoint import map_tensors, save_checkpoint
from utils.runtime.history import EpochRecord, write_history
from utils.runtime.run_dir import RunDir
from utils.training.state import TrainState

# Seconds from one writing to the next. On a GPU an epoch may take less than the writing after it: VGG19-BN with
# its optimizer is 160 MB, 0.5 to 0.8 s with checksums. What is not written yet is a copy in memory.
EVERY = {"cpu": 0.0, "cuda": 10.0}


class CheckpointWriter:
    """Saves a training's state after each epoch; when the block ends, however that comes, it is on disk."""

    def __init__(self, run_dir: RunDir, state: TrainState, content: dict[str, Any], every: float):
        self.run_dir, self.state, self.content, self.every = run_dir, state, content, every
        self.unwritten: dict[str, tuple[dict, dict]] = {}  # "best" and "last": weights, and what goes with them
        self.written_at = time.monotonic()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_exception) -> None:
        self.write()

    def epoch_done(self, _record: EpochRecord) -> None:
        """Write the state after this epoch, or copy it to be written later."""
        state, schedule = self.state, self.state.schedule
        content = self.content | {"epoch": state.epoch, "metrics": asdict(state.history[-1])}
        content["threads"] = torch.get_num_threads()  # of the CPU: another number gives other last bits
        now = state.epoch == schedule.epochs or time.monotonic() - self.written_at >= self.every
        weights, to_resume = state.result.state_dict(), state.state_dict()
        if not now:  # the next epoch changes them
            weights, to_resume = map_tensors((weights, to_resume), lambda tensor: tensor.detach().clone())
        if state.epoch == state.best_epoch:
            self.unwritten["best"] = weights, content
        self.unwritten["last"] = weights, content | to_resume
        if now:
            self.write()

    def write(self) -> None:
        """Write what is not on disk yet; best.pt first: last.pt never tells of a best that is not there."""
        if not self.unwritten:
            return
        for name, path in (("best", self.run_dir.best), ("last", self.run_dir.last)):
            if name in self.unwritten:
                save_checkpoint(path, *self.unwritten[name])
        write_history(self.run_dir.history, self.state.history)
        self.unwritten, self.written_at = {}, time.monotonic()
