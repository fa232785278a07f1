"""Knowledge distillation at a temperature that is learned against the student."""

import math

import torch
from torch import Tensor, nn

from utils.losses.functional import kl_divergence
from utils.losses.method import Method, temperature_of, within
from utils.losses.outputs import Outputs


class CTKD(Method):
    """Curriculum temperature for knowledge distillation (Li et al., 2023).

    One global temperature. L = (1 - alpha) * CE + alpha * T^2 * KL at T = lowest + span * sigmoid(theta). theta is
    trained with the student, but to make the divergence larger; the force of that rises from 0 to 1 by a cosine in
    the first `warmup` of the training (10 of 240 epochs in the paper).
    """

    def __init__(self, alpha: float = 0.9, lowest: float = 1.0, span: float = 20.0, warmup: float = 0.042):
        super().__init__()
        self.alpha, self.warmup = within(0, 1, "alpha", alpha), within(0, 1, "warmup", warmup)
        self.lowest, self.span = temperature_of(lowest, "lowest"), within(0, 10_000, "span", span)
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        temperature = self.lowest + self.span * torch.sigmoid(self.theta)
        force = (1 - torch.cos(math.pi * self.risen(progress))) / 2
        # The value is the temperature, the gradient is turned around and multiplied by the force.
        temperature = ((1 + force) * temperature).detach() - force * temperature
        soft = kl_divergence(student.logits, teacher.logits, temperature) * temperature**2
        return {"CE": (1 - self.alpha) * self.cross_entropy(student, labels), "KL": self.alpha * soft}
