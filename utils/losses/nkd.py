"""Normalised knowledge distillation."""

from torch import Tensor

from utils.losses.functional import at_least_float32, log_probabilities, target_of, without_target
from utils.losses.method import Method, at_least, temperature_of
from utils.losses.outputs import Outputs


class NKD(Method):
    """Normalised knowledge distillation (Yang et al., 2023).

    L = ce * CE - p_t(y) * log p_s(y) - gamma * T^2 * sum over the other classes of n(p_t) * log n(p_s), where n
    divides the probabilities of the other classes by their sum. Both are cross-entropies, not divergences: they
    are not 0 for a student that equals its teacher.
    """

    def __init__(self, temperature: float = 1.0, gamma: float = 1.5, ce: float = 1.0):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.gamma, self.ce = at_least(0, gamma=gamma, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        target, others = normalised(student.logits, teacher.logits, labels, self.temperature)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "target": target,
            "others": self.gamma * self.temperature**2 * others,
        }


def normalised(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The cross-entropies of the target and of the other classes, [B, C] and int64 [B] to two scalars."""
    own_s, own_t = (target_of(log_probabilities(each), labels) for each in (student_logits, teacher_logits))
    others_s, others_t = (
        log_probabilities(without_target(at_least_float32(each), labels), temperature)
        for each in (student_logits, teacher_logits)
    )
    return -(own_t.exp() * own_s).mean(), -(others_t.exp() * others_s).sum(1).mean()
