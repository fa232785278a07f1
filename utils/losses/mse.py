"""Matching the logits themselves."""

import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class MSE(Method):
    """Mean squared error of logits (Ba and Caruana, 2014; Kim et al., 2021).

    L = ce * CE + weight * mean over samples and classes of (z_s - z_t)^2.
    """

    def __init__(self, weight: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        distance = F.mse_loss(at_least_float32(student.logits), at_least_float32(teacher.logits))
        return {"CE": self.ce * self.cross_entropy(student, labels), "MSE": self.weight * distance}
