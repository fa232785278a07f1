"""Variational information distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.losses.functional import at_least_float32, pair_stages
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs

FIRST_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


class VID(Method):
    """Variational information distillation (Ahn et al., 2019).

    L = ce * CE + weight * the sum over the stages of the mean of ((f_t - m(f_s))^2 / v + log v) / 2: the teacher's
    features under a normal distribution, its mean m from three trained 1x1 convolutions of the student's, its
    variance v trained for each channel.
    """

    needs = "features"

    def __init__(self, weight: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        self.parts = nn.ModuleList(Gaussian(*pair) for pair in pair_stages(student, teacher))

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        pairs = pair_stages(student, teacher)
        loss = sum(part(*pair) for part, pair in zip(self.parts, pairs, strict=True))
        return {"CE": self.ce * self.cross_entropy(student, labels), "information": self.weight * loss}


class Gaussian(nn.Module):
    """The negative log likelihood of the teacher's maps given the student's, without its constant."""

    def __init__(self, student: Tensor, teacher: Tensor):
        super().__init__()
        ours, theirs = student.shape[1], teacher.shape[1]
        sizes = ((ours, theirs), (theirs, theirs), (theirs, theirs))
        layers = [layer for size in sizes for layer in (nn.Conv2d(*size, 1, bias=False), nn.ReLU())]
        self.mean = nn.Sequential(*layers[:-1])
        first = torch.tensor(FIRST_VARIANCE - LEAST_VARIANCE).expm1().log()  # its softplus is the first variance
        self.raw_variance = nn.Parameter(first.repeat(theirs))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (F.softplus(self.raw_variance) + LEAST_VARIANCE)[:, None, None]
        error = at_least_float32(teacher) - self.mean(at_least_float32(student))
        return (error.square() / variance + variance.log()).mean() / 2
