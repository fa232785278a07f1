"""Distillation without a teacher."""

import torch
from torch import Tensor

from utils.losses.functional import kl_of_logs, log_probabilities
from utils.losses.method import Method, temperature_of, within
from utils.losses.outputs import Outputs


class TfKD(Method):
    """Teacher-free knowledge distillation by regularisation (Yuan et al., 2020).

    L = (1 - alpha) * CE + alpha * KL(softmax(d / T) || softmax(z_s)), where d is a teacher made by hand: `correct`
    for the target, and what is left of 1 in equal parts for the other classes. As in the authors' program, the
    probabilities d are the logits of the softmax, and the student has no temperature.
    """

    needs = "labels"

    def __init__(self, alpha: float = 0.1, correct: float = 0.99, temperature: float = 20.0):
        super().__init__()
        self.alpha, self.correct = within(0, 1, "alpha", alpha), within(0.5, 1, "correct", correct)
        self.temperature = temperature_of(temperature)

    def forward(self, student: Outputs, teacher: None, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        classes = torch.arange(student.logits.shape[1], device=labels.device)
        rest = (1 - self.correct) / (len(classes) - 1)
        made = torch.where(classes == labels[:, None], self.correct, rest)  # [B, C]
        divergence = kl_of_logs(log_probabilities(student.logits), log_probabilities(made, self.temperature))
        return {
            "CE": (1 - self.alpha) * self.cross_entropy(student, labels),
            "KL": self.alpha * divergence.mean(),
        }
