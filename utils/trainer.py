"""The training loop: one for the teacher, the student and the taught student."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from utils.data.batches import Batches
from utils.device import Compute
from utils.errors import UserError
from utils.metrics import Meter, Metrics, evaluate
from utils.teacher import Teacher

LOOK_EVERY = 0.3  # seconds between two looks at the running loss; each look waits for the device


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


class Training:
    """Everything that changes while a network trains, and that resuming it needs."""

    def __init__(self, model: nn.Module, schedule: Schedule):
        self.model, self.schedule = model, schedule
        weights = [p for p in model.parameters() if p.ndim > 1]
        scales_and_biases = [p for p in model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": weights}, {"params": scales_and_biases, "weight_decay": 0.0}],
            lr=schedule.lr,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=schedule.momentum > 0,
            fused=True,
        )
        self.averaged, self.averaged_steps = None, 0
        if schedule.ema:
            self.averaged = copy.deepcopy(model).requires_grad_(False)
            self._averages, self._averaged_from = (_floats(each) for each in (self.averaged, model))
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
            if self.averaged_steps == 0:
                torch._foreach_copy_(self._averages, self._averaged_from)
            else:
                torch._foreach_lerp_(self._averages, self._averaged_from, 1 - self.schedule.ema)
        self.averaged_steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs beside the weights of `result`."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule),
            "history": [asdict(record) for record in self.history],
        }
        if self.averaged is not None:
            state["averaging"] = {"model": self.model.state_dict(), "steps": self.averaged_steps}
        return state

    def load_state_dict(self, result: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `result` holds the weights of that moment's `result`."""
        self.result.load_state_dict(result)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():
            if any(value.shape != parameter.shape for value in kept.values() if isinstance(value, torch.Tensor)):
                raise UserError("the optimizer state in the checkpoint does not fit the network")
        self.history = [EpochRecord(**record) for record in state["history"]]
        if self.averaged is not None:
            self.model.load_state_dict(state["averaging"]["model"])
            self.averaged_steps = state["averaging"]["steps"]


Progress = Callable[[int, int, Metrics], None]  # epoch (0, 1, ...), finished steps of it, means so far


def fit(
    training: Training,
    objective: Callable[..., torch.Tensor],
    train: Batches,
    val: Batches | None,
    compute: Compute,
    teacher: Teacher | None = None,
    on_progress: Progress = lambda epoch, step, metrics: None,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> Iterator[EpochRecord]:
    """Train until `schedule.epochs` are finished; yield each epoch's record when all of it is in `training`.

    `stop_if_asked` is called after every step and may raise to end the training there. Raises UserError when
    the loss is no longer finite.
    """
    for epoch in range(training.epoch, training.schedule.epochs):
        started = time.perf_counter()
        metrics = _train_epoch(epoch, training, objective, train, compute, teacher, on_progress, stop_if_asked)
        seconds = time.perf_counter() - started
        measured = Metrics(None, None, None)
        if val is not None:
            measured = evaluate(training.result, val, compute)
            _require_finite(measured.loss, epoch, training.schedule.lr)
        lr = training.optimizer.param_groups[0]["lr"]
        training.history.append(EpochRecord(epoch + 1, lr, *metrics, *measured, seconds))
        yield training.history[-1]


def _train_epoch(epoch, training, objective, train, compute, teacher, on_progress, stop_if_asked) -> Metrics:
    model, optimizer, schedule = training.model, training.optimizer, training.schedule
    model.train()
    meter = Meter(compute.device)
    next_look = time.perf_counter() + LOOK_EVERY
    for step, batch in enumerate(train.epoch(epoch)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(epoch * schedule.steps_per_epoch + step)
        teacher_logits = teacher(batch) if teacher is not None else None
        with compute.autocast():
            logits = model(batch.images)
        loss = objective(logits, teacher_logits, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if training.averaged is not None:
            training.update_average()
        meter.update(loss.detach(), logits, batch.labels)
        stop_if_asked()
        if time.perf_counter() >= next_look:
            metrics = meter.read()
            _require_finite(metrics.loss, epoch, schedule.lr)
            on_progress(epoch, step + 1, metrics)
            next_look = time.perf_counter() + LOOK_EVERY
    # A step can spoil weights or statistics after its own loss was fine; a sum of norms finds any such value.
    norms = torch.stack([tensor.norm() for tensor in _floats(training.result)])
    metrics = meter.read()
    _require_finite(metrics.loss + norms.sum().item(), epoch, schedule.lr)
    return metrics


def _floats(model: nn.Module) -> list[torch.Tensor]:
    """Weights and batch norm statistics, as they are in the network and not copies."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def _require_finite(value: float, epoch: int, lr: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"the loss is no longer finite in epoch {epoch + 1}", f"try a --lr below {lr:g}")
