"""The flow between stages."""

import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.adapters import connector
from utils.losses.functional import at_least_float32, pair_stages
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class FSP(Method):
    """A gift from knowledge distillation (Yim et al., 2017), trained together with the cross-entropy.

    L = ce * CE + weight * sum over the steps from one stage to the next of the mean squared difference of the flow
    matrices: the products of the channels of both stages, averaged over the pixels. Where the student has other
    numbers of channels, a trained 1x1 convolution gives it the teacher's.
    """

    needs = "features"

    def __init__(self, weight: float = 50.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pairs = pair_stages(student, teacher)
        if len(pairs) < 2:
            raise ValueError("the flow needs two stages of the same resolution in both networks, and there is one")
        same = all(ours.shape == theirs.shape for ours, theirs in pairs)
        self.connectors = nn.ModuleList(nn.Identity() if same else connector(*pair) for pair in pairs)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = zip(*pair_stages(student, teacher), strict=True)
        ours = [connect(at_least_float32(each)) for connect, each in zip(self.connectors, ours, strict=True)]
        distance = sum(
            F.mse_loss(flow(ours[i], ours[i + 1]), flow(theirs[i], theirs[i + 1])) for i in range(len(ours) - 1)
        )
        return {"CE": self.ce * self.cross_entropy(student, labels), "flow": self.weight * distance}


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The flow matrices of feature maps [B, c, h, w] and [B, d, k, l], the larger one pooled; [B, c, d]."""
    size = min(first.shape[2:], second.shape[2:])
    first, second = (F.adaptive_avg_pool2d(at_least_float32(each), size).flatten(2) for each in (first, second))
    return first @ second.transpose(1, 2) / first.shape[2]
