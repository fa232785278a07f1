"""Attention transfer."""

import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import pair_stages, same_size
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class AT(Method):
    """Attention transfer (Zagoruyko and Komodakis, 2017, p = 2).

    L = ce * CE + weight * sum over the stages of the mean squared difference of the attention maps: the mean over
    the channels of f^2, with norm 1 in each image.
    """

    needs = "features"

    def __init__(self, weight: float = 1000.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pair_stages(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        distance = sum(attention_distance(*pair) for pair in pair_stages(student, teacher))
        return {"CE": self.ce * self.cross_entropy(student, labels), "attention": self.weight * distance}


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of feature maps [B, c, h, w] of any numbers of channels; the larger ones are pooled; a scalar."""
    student, teacher = (F.normalize(each.square().mean(1).flatten(1)) for each in same_size(student, teacher))
    return (student - teacher).square().mean()
