"""What every method of distillation has in common."""

import inspect
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32
from utils.losses.outputs import Outputs


class Method(nn.Module):
    """A method of distillation: from the outputs of student and teacher to the terms of a loss.

    The keyword arguments of the constructor are the method's settings, each with its default; a value out of range
    raises ValueError. What means the same has the same name in all methods: `temperature`, `alpha`, `beta`,
    `gamma`, `weight` (of the method's own term), `ce` (of the cross-entropy), `warmup` (a share of the training).
    """

    # Of the outputs: "labels" (no teacher at all), "logits", "embedding", "features" or "preactivations"
    needs: ClassVar[str] = "logits"
    compares_samples: ClassVar[bool] = False  # with each other, so that a batch of one image says nothing
    strong_view: ClassVar[bool] = False  # a batch has each image twice: first all as usual, then all changed more
    adds_up: ClassVar[bool] = True  # whether it has a term beside the cross-entropy, for sums of methods
    always_named: ClassVar[tuple[str, ...]] = ()  # settings that stand in a run's name even at their default
    label_smoothing = 0.0  # of the cross-entropy: a part of the recipe, not of the method
    warmup = 0.0

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        """Make trainable parts, such as projections, that fit these outputs of one batch; called once.

        They are trained with the student and saved in last.pt. Raises ValueError for outputs that do not match.
        """

    def forward(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor, progress: Tensor
    ) -> dict[str, Tensor]:
        """The terms of the loss by name, weighted: scalars in float32 or better whose sum is minimised.

        `labels` is int64 [B]; `progress` is a scalar on the device, from 0 at the first step to 1 after the last.
        """
        raise NotImplementedError

    def cross_entropy(self, student: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the student's logits, with the recipe's label smoothing; a scalar."""
        return F.cross_entropy(at_least_float32(student.logits), labels, label_smoothing=self.label_smoothing)

    def risen(self, progress: Tensor) -> Tensor:
        """How far the method's own terms have risen: from 0 to 1 in the first `warmup` of the training."""
        return (progress / self.warmup).clamp(max=1) if self.warmup else torch.ones_like(progress)

    def formula(self) -> str:
        """The objective as a text for people."""
        settings = (f"{name} {getattr(self, name):g}" for name in inspect.signature(type(self)).parameters)
        return f"{type(self).__name__} with {', '.join(settings)}"


class CrossEntropy(Method):
    """Cross-entropy with the labels: how a teacher learns, and a student alone."""

    def forward(self, student: Outputs, teacher: None, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        return {"CE": self.cross_entropy(student, labels)}

    def formula(self) -> str:
        return "CE" + (f" (label smoothing {self.label_smoothing:g})" if self.label_smoothing else "")


def at_least(low: float, **values: float) -> tuple[float, ...]:
    """Several settings, checked, in their order."""
    for name, value in values.items():
        if not low <= value < float("inf"):
            raise ValueError(f"{name} {value:g} is not a number of at least {low:g}")
    return tuple(values.values())


def within(low: float, high: float, name: str, value: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g} is not from {low:g} to {high:g}")
    return value


def temperature_of(value: float, name: str = "temperature") -> float:
    return within(0.01, 10_000, name, value)
