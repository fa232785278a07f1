"""The training loop: one for the teacher, the student and the taught student."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.augment import View
from utils.data.batches import Batch, Batches
from utils.evaluation.metrics import Meter, Metrics, evaluate
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.run_dir import EpochRecord
from utils.training.cuda_graph import graphed
from utils.training.optimizer import SGD

LOG_INTERVAL = 0.3  # seconds between two looks at the running loss; each look waits for the device


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. The learning rate is a function of the step and of nothing else."""

    epochs: int
    steps_per_epoch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    schedule: str = "linear"
    ema: float = 0.0

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: up to `lr` in the first `warmup` of all steps, then down to 0."""
        total = self.epochs * self.steps_per_epoch
        rising = self.warmup * total
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        left = (total - step) / (total - rising)
        return self.lr * (left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


class TrainState:
    """Everything that changes while a network trains, and that resuming it needs."""

    def __init__(self, model: nn.Module, schedule: Schedule):
        self.model, self.schedule = model, schedule
        self.optimizer = SGD(model, schedule.lr, schedule.momentum, schedule.weight_decay)
        self.averaged = None
        if schedule.ema:
            self.averaged = copy.deepcopy(model).requires_grad_(False)
            self._averages, self._averaged_from = (_floats(each) for each in (self.averaged, model))
        self.steps = 0  # finished ones
        self.history: list[EpochRecord] = []

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and kept: the average of the weights where there is one."""
        return self.model if self.averaged is None else self.averaged

    @property
    def best_epoch(self) -> int | None:
        """The epoch (1, 2, ...) of the best validation accuracy, the first of equals."""
        measured = [record for record in self.history if record.val_top1 is not None]
        return max(measured, key=lambda record: record.val_top1).epoch if measured else None

    def update_average(self) -> None:
        """Move the averages of weights and batch norm statistics towards their values after this step.

        torch's AveragedModel does the same, but waits for the device twice in each step.
        """
        with torch.no_grad():
            if self.steps == 0:
                torch._foreach_copy_(self._averages, self._averaged_from)
            else:
                torch._foreach_lerp_(self._averages, self._averaged_from, 1 - self.schedule.ema)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs beside the weights of `result`."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule),
            "history": [asdict(record) for record in self.history],
        }
        if self.averaged is not None:
            state["averaging"] = self.model.state_dict()
        return state

    def load_state_dict(self, result: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `result` holds the weights of that moment's `result`."""
        self.result.load_state_dict(result)
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.steps = self.epoch * self.schedule.steps_per_epoch
        if self.averaged is not None:
            self.model.load_state_dict(state["averaging"])


class Step:
    """One step of training, from the places of its images to the new weights. It waits for nothing.

    `shown` is set in each epoch: the view, and the teacher's answers to it (float [N, C]) where they are kept.
    """

    def __init__(
        self,
        training: TrainState,
        objective: Callable[..., Tensor],
        train: Batches,
        compute: Compute,
        teacher: Callable[[Batch], Tensor] | None,
        compiled: bool,
    ):
        self.training, self.objective, self.train, self.compute = training, objective, train, compute
        self.teacher, self.meter = teacher, Meter(compute.device)
        self.forward = torch.compile(training.model, dynamic=False) if compiled else training.model
        self.shown: tuple[View, Tensor | None] | None = None

    def __call__(self, indices: Tensor) -> None:
        """Train on the images at `indices` (int64 [B])."""
        view, answers = self.shown
        batch = self.train.serve(indices, view)
        if answers is not None:
            teacher_logits = answers.index_select(0, indices)
        else:
            teacher_logits = self.teacher(batch) if self.teacher is not None else None
        with self.compute.autocast():
            logits = self.forward(batch.images)
        loss = self.objective(logits, teacher_logits, batch.labels)
        loss.backward()
        self.training.optimizer.step()
        if self.training.averaged is not None:
            self.training.update_average()
        self.meter.update(loss.detach(), logits, batch.labels)


Progress = Callable[[int, int, Metrics], None]  # epoch (0, 1, ...), finished steps of it, means so far


def fit(
    training: TrainState,
    objective: Callable[..., Tensor],
    train: Batches,
    val: Batches | None,
    compute: Compute,
    teacher: Callable[[Batch], Tensor] | None = None,
    answers: Callable[[int], Tensor] | None = None,
    eval_every: int = 1,
    cuda_graph: bool = True,
    compiled: bool = False,
    on_progress: Progress = lambda epoch, step, metrics: None,
    check_interrupt: Callable[[], None] = lambda: None,
) -> Iterator[EpochRecord]:
    """Train until `schedule.epochs` are finished; yield each epoch's record when all of it is in `training`.

    A student is taught by `teacher`, which gives logits [B, C] for a batch, or by `answers`, which gives those
    of all images, [N, C], for the number of a view. `val` is measured after every `eval_every` epochs and after
    the last one. `check_interrupt` is called after every step and may raise to end the training there. Raises
    UserError when the loss is no longer finite.
    """
    step = Step(training, objective, train, compute, teacher, compiled)
    run = graphed(step) if cuda_graph else step
    epochs = training.schedule.epochs
    for epoch in range(training.epoch, epochs):
        number = train.view_number(epoch)
        run.shown = train.view(number), answers(number) if answers is not None else None
        started = time.perf_counter()  # not before: who makes the answers must not seem slower than who reads them
        metrics = _train_epoch(epoch, step, run, on_progress, check_interrupt)
        seconds = time.perf_counter() - started
        measured = Metrics(None, None, None)
        if val is not None and ((epoch + 1) % eval_every == 0 or epoch + 1 == epochs):
            measured = evaluate(training.result, val, compute)
            _require_finite(measured.loss, epoch, training.schedule.lr)
        lr = training.schedule.lr_at(training.steps - 1)
        training.history.append(EpochRecord(epoch + 1, lr, *metrics, *measured, seconds))
        yield training.history[-1]


def _train_epoch(epoch: int, step: Step, run: Callable[[Tensor], None], on_progress, check_interrupt) -> Metrics:
    """Train an epoch with `run`, which is `step` itself or a replay of it."""
    training, meter = step.training, step.meter
    training.model.train()
    meter.reset()
    next_log = time.perf_counter() + LOG_INTERVAL
    for number, indices in enumerate(step.train.order(epoch)):
        training.optimizer.set_lr(training.schedule.lr_at(training.steps))
        run(indices)
        training.steps += 1
        check_interrupt()
        if time.perf_counter() >= next_log:
            metrics = meter.read()
            _require_finite(metrics.loss, epoch, training.schedule.lr)
            on_progress(epoch, number + 1, metrics)
            next_log = time.perf_counter() + LOG_INTERVAL
    # A step can spoil weights or statistics after its own loss was fine; a sum of norms finds any such value.
    norms = torch.stack(torch._foreach_norm(_floats(training.result)))
    metrics = meter.read()
    _require_finite(metrics.loss + norms.sum().item(), epoch, training.schedule.lr)
    return metrics


def _floats(model: nn.Module) -> list[Tensor]:
    """Weights and batch norm statistics, as they are in the network and not copies."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def _require_finite(value: float, epoch: int, lr: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"the loss is no longer finite in epoch {epoch + 1}", f"try a --lr below {lr:g}")
