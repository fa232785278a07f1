"""Knowledge distillation from a stronger teacher: correlations instead of differences."""

import torch.nn.functional as F
from torch import Tensor

from utils.losses.functional import log_probabilities
from utils.losses.method import Method, at_least, temperature_of
from utils.losses.outputs import Outputs


class DIST(Method):
    """Knowledge distillation from a stronger teacher (Huang et al., 2022).

    L = ce * CE + T^2 * (beta * (1 - correlation of the classes of each sample) + gamma * (1 - correlation of the
    samples for each class)) of the probabilities at T. The paper has T = 4 on CIFAR and 1 on ImageNet.
    """

    compares_samples = True

    def __init__(self, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.beta, self.gamma, self.ce = at_least(0, beta=beta, gamma=gamma, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = (log_probabilities(each.logits, self.temperature).exp() for each in (student, teacher))
        scale = self.temperature**2
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "classes": self.beta * scale * uncorrelated(ours, theirs),
            "samples": self.gamma * scale * uncorrelated(ours.T, theirs.T),
        }


def uncorrelated(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 minus Pearson's correlation of two matrices [n, m], row by row, averaged over the rows; a scalar."""
    ours, theirs = (each - each.mean(1, keepdim=True) for each in (ours, theirs))
    return 1 - F.cosine_similarity(ours, theirs, dim=1, eps=1e-8).mean()
