"""Correlation congruence."""

import torch
from torch import Tensor, nn

from utils.losses.functional import at_least_float32
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class CC(Method):
    """Correlation congruence for knowledge distillation (Peng et al., 2019), as the known programs have it.

    L = ce * CE + weight * the mean over i of the product of d_i and d_(i + 1), two neighbours in the batch, where
    d = |r(e_s) - e_t| and r is a trained linear layer. The paper compares kernels of all pairs.
    """

    needs = "embedding"
    compares_samples = True

    def __init__(self, weight: float = 0.02, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        self.project = nn.Linear(student.embedding.shape[1], teacher.embedding.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        congruence = neighbour_congruence(self.project(at_least_float32(student.embedding)), teacher.embedding)
        return {"CE": self.ce * self.cross_entropy(student, labels), "congruence": self.weight * congruence}


def neighbour_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Of embeddings [B, D]; a scalar."""
    difference = torch.abs(student - teacher)
    return (difference[:-1] * difference[1:]).sum(1).mean()
