"""Neuron selectivity transfer."""

import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import pair_stages, same_size
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class NST(Method):
    """Neuron selectivity transfer (Huang and Wang, 2017, with the kernel (x y)^2).

    L = ce * CE + weight * sum over the stages of the squared maximum mean discrepancy between the channels of
    both networks, each channel's map with norm 1.
    """

    needs = "features"

    def __init__(self, weight: float = 50.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pair_stages(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        discrepancy = sum(channel_discrepancy(*pair) for pair in pair_stages(student, teacher))
        return {"CE": self.ce * self.cross_entropy(student, labels), "discrepancy": self.weight * discrepancy}


def channel_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Of feature maps [B, c, h, w] of any numbers of channels; the larger ones are pooled; a scalar."""
    student, teacher = (F.normalize(each.flatten(2), dim=2) for each in same_size(student, teacher))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).square().mean()

    return kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)
