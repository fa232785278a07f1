"""What a network is trained to minimise, and the registry of it by role.

An objective is called as `objective(student_logits, teacher_logits, labels)` with logits [B, C] (those of the
teacher are None without one) and labels int64 [B]; it returns a scalar, and its text is shown to the user.
"""

from dataclasses import dataclass

from torch import Tensor

from utils.losses.logits import cross_entropy, kd_loss


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with the labels: how a teacher learns, and a student alone."""

    label_smoothing: float = 0.0

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        return cross_entropy(student_logits, labels, self.label_smoothing)

    def __str__(self) -> str:
        return "CE" + (f" (label smoothing {self.label_smoothing:g})" if self.label_smoothing else "")


@dataclass(frozen=True)
class Distillation:
    """(1 - alpha) * CE + alpha * T^2 * KL(teacher || student) (Hinton, Vinyals and Dean, 2015, section 2)."""

    alpha: float
    temperature: float
    label_smoothing: float = 0.0

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        hard = cross_entropy(student_logits, labels, self.label_smoothing)
        soft = kd_loss(student_logits, teacher_logits, self.temperature)
        return (1 - self.alpha) * hard + self.alpha * soft

    def __str__(self) -> str:
        hard = f"{1 - self.alpha:g} * {CrossEntropy(self.label_smoothing)}"
        return f"{hard} + {self.alpha:g} * {self.temperature:g}^2 * KL at T = {self.temperature:g}"


# role -> the objective, built from that run's settings
OBJECTIVES = {
    "teacher": lambda config: CrossEntropy(config.label_smoothing),
    "student": lambda config: CrossEntropy(config.label_smoothing),
    "kd": lambda config: Distillation(config.alpha, config.temp, config.label_smoothing),
}
