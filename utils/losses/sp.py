"""Similarity-preserving knowledge distillation."""

from torch import Tensor

from utils.losses.functional import at_least_float32, unit
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class SP(Method):
    """Similarity-preserving knowledge distillation (Tung and Mori, 2019).

    L = ce * CE + weight / B^2 * ||G_t - G_s||^2, where G holds the products of the images' features in the last
    stage, with norm 1 in each row.
    """

    needs = "features"
    compares_samples = True

    def __init__(self, weight: float = 3000.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        distance = similarity_distance(student.features[-1], teacher.features[-1])
        return {"CE": self.ce * self.cross_entropy(student, labels), "similarity": self.weight * distance}


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of features [B, ...] of any shapes; a scalar."""
    student, teacher = (unit(flat @ flat.T) for flat in _flat(student, teacher))
    return (teacher - student).square().mean()


def _flat(*features: Tensor) -> list[Tensor]:
    return [at_least_float32(each).flatten(1) for each in features]
