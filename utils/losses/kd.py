"""Hinton's knowledge distillation, and the same on standardised logits."""

from torch import Tensor

from utils.losses.functional import kl_divergence, standardise
from utils.losses.method import Method, at_least, temperature_of, within
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


class StandardisedKD(Method):
    """Logit standardisation in knowledge distillation (Sun et al., 2024).

    L = ce * CE + weight * T^2 * KL of logits that have mean 0 and deviation 1 in each row, in both networks: the
    student may have logits of another size than its teacher.
    """

    always_named = ("temperature",)

    def __init__(self, temperature: float = 2.0, weight: float = 9.0, ce: float = 0.1):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        soft = kl_divergence(standardise(student.logits), standardise(teacher.logits), self.temperature)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "KL": self.weight * self.temperature**2 * soft,
        }
