"""What a network is trained to minimise, and the registry of it by role.

An objective is called as `objective(student_logits, teacher_logits, labels)` with logits [B, C] (those of the
teacher are None without one) and labels int64 [B]; it returns a scalar, and its text is shown to the user. `terms`
takes the same and gives what the scalar is the sum of, by name.
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

    def terms(self, *logits_and_labels: Tensor | None) -> dict[str, Tensor]:
        return {"CE": self(*logits_and_labels)}

    def __str__(self) -> str:
        return "CE" + (f" (label smoothing {self.label_smoothing:g})" if self.label_smoothing else "")


@dataclass(frozen=True)
class Distillation:
    """(1 - alpha) * CE + alpha * T^2 * KL(teacher || student) (Hinton, Vinyals and Dean, 2015, section 2)."""

    alpha: float
    temperature: float
    label_smoothing: float = 0.0

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        hard, soft = self.terms(student_logits, teacher_logits, labels).values()
        return hard + soft

    def terms(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        hard = cross_entropy(student_logits, labels, self.label_smoothing)
        soft = kd_loss(student_logits, teacher_logits, self.temperature)
        return {"CE": (1 - self.alpha) * hard, "KL": self.alpha * soft}

    def __str__(self) -> str:
        hard, soft, temperature = 1 - self.alpha, self.alpha * self.temperature**2, f"{self.temperature:g}"
        text = f"{hard:g} * {CrossEntropy(self.label_smoothing)} + {self.alpha:g} * {temperature}^2 * KL"
        return f"{text} at T = {temperature} (weights {hard:g} and {soft:g})"


# role -> the objective, built from that run's settings
OBJECTIVES = {
    "teacher": lambda config: CrossEntropy(config.label_smoothing),
    "student": lambda config: CrossEntropy(config.label_smoothing),
    "kd": lambda config: Distillation(config.alpha, config.temp, config.label_smoothing),
}
