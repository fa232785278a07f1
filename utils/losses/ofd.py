"""Overhaul of feature distillation."""

from torch import Tensor, nn

from utils.losses.adapters import connector
from utils.losses.functional import at_least_float32, pair_maps
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class OFD(Method):
    """A comprehensive overhaul of feature distillation (Heo et al., 2019).

    L = ce * CE + weight * sum over the stages, the last with factor 1 and each before it with half of the next, of
    the sum of squared differences over B, before the last ReLU of a stage. What the teacher has below 0 becomes
    the mean of a channel's negative values, and counts nothing where the student is below it. The student passes a
    trained 1x1 convolution. The mean is that of the batch; the paper has it from batch norm's parameters.
    """

    needs = "preactivations"

    def __init__(self, weight: float = 0.001, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pairs = pair_maps(student.preactivations, teacher.preactivations)
        self.connectors = nn.ModuleList(connector(*pair) for pair in pairs)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        distance = 0.0
        pairs = pair_maps(student.preactivations, teacher.preactivations)
        for connect, (ours, theirs) in zip(self.connectors, pairs, strict=True):
            distance = distance / 2 + partial_distance(connect(at_least_float32(ours)), theirs)
        return {"CE": self.ce * self.cross_entropy(student, labels), "features": self.weight * distance}


def partial_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of maps [B, c, h, w] before their ReLU; a scalar, summed over a map and averaged over the batch."""
    teacher = at_least_float32(teacher)
    negative = teacher.clamp(max=0)
    count = (teacher < 0).sum((0, 2, 3), keepdim=True).clamp(min=1)
    target = teacher.maximum(negative.sum((0, 2, 3), keepdim=True) / count)
    ignored = (student <= target) & (target <= 0)
    return (student - target).square().masked_fill(ignored, 0).sum() / len(student)
