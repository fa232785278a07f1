"""What a user sees while a network trains: header, estimate, a bar or a line for each epoch."""

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from utils.evaluation.metrics import Metrics
from utils.runtime.history import EpochRecord

ESTIMATE_AFTER = 5.0  # seconds of training
LONG = 20 * 60.0  # seconds, from which a CPU user is told what would be faster

Run = TypeVar("Run")


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `5 h 08 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02d} min"


def print_header(title: str, rows: dict[str, str]) -> None:
    """A title and aligned rows."""
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"  {name:<10} {value}")
    print(flush=True)


def in_turn(
    runs: Sequence[Run], actions: Sequence[str], kinds: Callable[[Run], Sequence[Hashable]]
) -> Iterator[Run]:
    """Yield several runs, each after a line of its number and, where it can be told, of the time to expect.

    `actions` are what will be done with each: "start", "resume" or "skip". `kinds(run)` are its kinds, the
    narrowest first: a run is expected to take what the last one of its kind took that was trained from its start.
    Nothing is said as long as there was none for some run.
    """
    seconds: dict[Hashable, float] = {}  # by kind
    for number, (run, action) in enumerate(zip(runs, actions, strict=True)):
        todo = [other for other, its in zip(runs[number:], actions[number:], strict=True) if its != "skip"]
        known = [next((seconds[kind] for kind in kinds(other) if kind in seconds), None) for other in todo]
        line = f"\nrun {number + 1} of {len(runs)}"
        if action != "skip" and None not in known:
            line += f"; about {duration(sum(known))} to go for all of them"
        if len(runs) > 1:
            print(line, flush=True)
        started = time.perf_counter()
        yield run
        if action == "start":
            seconds |= dict.fromkeys(kinds(run), time.perf_counter() - started)


class TrainingDisplay:
    """Shows a training: a bar per epoch on a terminal, else a line per epoch."""

    def __init__(self, epochs: int, steps_per_epoch: int, advice: str = ""):
        self.epochs, self.steps, self.advice = epochs, steps_per_epoch, advice
        self.bar: tqdm | None = None
        self.terminal = sys.stdout.isatty()
        self.started, self.steps_before = time.perf_counter(), None
        self.estimated = False

    def __enter__(self) -> "TrainingDisplay":
        return self

    def __exit__(self, *_exception) -> None:
        if self.bar is not None:
            self.bar.close()

    def progress(self, epoch: int, step: int, metrics: Metrics) -> None:
        """Called a few times a second; `epoch` counts from 0, `step` is the number of finished steps in it."""
        self._estimate(epoch, step)
        if not self.terminal:
            return
        if self.bar is None:
            self.bar = tqdm(
                total=self.steps, desc=self._label(epoch + 1), leave=False, file=sys.stdout, dynamic_ncols=True
            )
        self.bar.set_postfix_str(f"loss {metrics.loss:.3f}, top-1 {metrics.top1:.1f} %", refresh=False)
        self.bar.update(step - self.bar.n)

    def epoch_done(self, record: EpochRecord) -> None:
        """Replace the bar by the epoch's line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        val = ""
        if record.val_top1 is not None:
            val = f"   val loss {record.val_loss:.4f} top-1 {record.val_top1:5.2f} %"
            if min(record.train_top5, record.val_top5) < 100:  # of up to five classes both always are
                val += f" top-5 {record.val_top5:5.2f} %"
        print(
            f"{self._label(record.epoch)}   train loss {record.train_loss:.4f} top-1 {record.train_top1:5.2f} %"
            f"{val}   {record.seconds:.1f} s",
            flush=True,
        )

    def _label(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"

    def _estimate(self, epoch: int, step: int) -> None:
        """Say once how long all of it will take; the first steps, slower than the rest, do not count."""
        now, steps = time.perf_counter(), epoch * self.steps + step
        if self.steps_before is None:
            self.started, self.steps_before = now, steps
        elapsed = now - self.started
        if self.estimated or elapsed < ESTIMATE_AFTER:
            return
        self.estimated = True
        left = elapsed / (steps - self.steps_before) * (self.epochs * self.steps - steps)
        text = f"about {duration(left)} to go for this network"
        if self.advice and left > LONG:
            text += f"; {self.advice}"
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
