"""Hinton's knowledge distillation."""

from torch import Tensor

from utils.losses.method import Method, kl_divergence, temperature_of, within
from utils.losses.outputs import Outputs


class KD(Method):
    """Knowledge distillation (Hinton, Vinyals and Dean, 2015, section 2).

    L = (1 - alpha) * CE(z_s, y) + alpha * T^2 * KL(softmax(z_t / T) || softmax(z_s / T)). T^2 keeps the size of
    the gradient independent of T.
    """

    always_named = ("temperature",)

    def __init__(self, temperature: float = 5.0, alpha: float = 0.9):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.alpha = within(0, 1, "alpha", alpha)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        soft = kl_divergence(student.logits, teacher.logits, self.temperature) * self.temperature**2
        return {"CE": (1 - self.alpha) * self.cross_entropy(student, labels), "KL": self.alpha * soft}

    def formula(self) -> str:
        hard, soft, t = 1 - self.alpha, self.alpha * self.temperature**2, f"{self.temperature:g}"
        smoothed = f" (label smoothing {self.label_smoothing:g})" if self.label_smoothing else ""
        return f"{hard:g} * CE{smoothed} + {self.alpha:g} * {t}^2 * KL at T = {t} (weights {hard:g} and {soft:g})"
