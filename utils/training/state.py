"""Everything that changes while a network trains, and that resuming it needs."""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.losses.method import CrossEntropy, Method
from utils.runtime.history import EpochRecord
from utils.training.optimizer import build_optimizer, load_optimizer


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. The learning rate is a function of the step and of nothing else."""

    epochs: int
    steps_per_epoch: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    schedule: str = "linear"
    ema: float = 0.0

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: up to `lr` in the first `warmup` of all steps, then down."""
        rising = self.warmup * self.steps
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(step >= share * self.steps for share in (5 / 8, 3 / 4, 7 / 8))
        left = (self.steps - step) / (self.steps - rising)
        return self.lr * (left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


class TrainState:
    """A network, the method that trains it, their optimizer, the averages of their weights, and the history."""

    def __init__(self, model: nn.Module, schedule: Schedule, method: Method | None = None):
        self.model, self.schedule, self.method = model, schedule, method or CrossEntropy()
        settings = schedule.lr, schedule.momentum, schedule.weight_decay
        self.optimizer = build_optimizer(schedule.optimizer, [self.model, self.method], *settings)
        self.averaged: tuple[nn.Module, Method] | None = None  # of model and method
        if schedule.ema:
            self.averaged = tuple(copy.deepcopy(each).requires_grad_(False) for each in (model, self.method))
            self._averages, self._current = floats(*self.averaged), floats(self.model, self.method)
        self.steps = 0  # finished ones
        self.history: list[EpochRecord] = []

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and saved: the average of the weights where there is one."""
        return self.averaged[0] if self.averaged else self.model

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
                torch._foreach_copy_(self._averages, self._current)
            else:
                torch._foreach_lerp_(self._averages, self._current, 1 - self.schedule.ema)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs beside the weights of `result`."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule),
            "history": [asdict(record) for record in self.history],
            "method": (self.averaged[1] if self.averaged else self.method).state_dict(),
        }
        if self.averaged:
            state |= {"averaging": self.model.state_dict(), "averaging_method": self.method.state_dict()}
        return state

    def load_state_dict(self, result: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; `result` holds the weights of that moment's `result`."""
        self.result.load_state_dict(result)
        (self.averaged[1] if self.averaged else self.method).load_state_dict(state.get("method", {}))
        if self.averaged:
            self.model.load_state_dict(state["averaging"])
            self.method.load_state_dict(state.get("averaging_method", {}))
        load_optimizer(self.optimizer, state["optimizer"], self.model)
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.steps = self.epoch * self.schedule.steps_per_epoch


def floats(*modules: nn.Module) -> list[Tensor]:
    """Weights and batch norm statistics, as they are in the networks and not copies."""
    return [t for module in modules for t in module.state_dict().values() if t.is_floating_point()]
