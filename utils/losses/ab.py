"""Activation boundaries."""

from torch import Tensor, nn

from utils.losses.adapters import connector
from utils.losses.functional import at_least_float32, pair_maps
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs


class AB(Method):
    """Knowledge transfer via distillation of activation boundaries (Heo et al., 2019).

    L = ce * CE + weight * the mean over stages, images and neurons of the squared distance to the right side:
    where the teacher is above 0 before a stage's last ReLU, the student should be above `margin`, else below
    -margin. The student passes a trained 1x1 convolution. The paper does this alone first; here it goes on beside
    the CE.
    """

    needs = "preactivations"

    def __init__(self, weight: float = 1.0, ce: float = 1.0, margin: float = 1.0):
        super().__init__()
        self.weight, self.ce, self.margin = at_least(0, weight=weight, ce=ce, margin=margin)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        pairs = pair_maps(student.preactivations, teacher.preactivations)
        self.connectors = nn.ModuleList(connector(*pair) for pair in pairs)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        pairs = pair_maps(student.preactivations, teacher.preactivations)
        loss = sum(
            boundary_loss(connect(at_least_float32(ours)), theirs, self.margin)
            for connect, (ours, theirs) in zip(self.connectors, pairs, strict=True)
        )
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "boundaries": self.weight * loss / len(pairs),
        }


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Of maps [B, c, h, w] before their ReLU; a scalar."""
    side = (teacher > 0).to(student.dtype) * 2 - 1
    return (margin - side * student).clamp(min=0).square().mean()
