"""Decoupled knowledge distillation."""

from torch import Tensor

from utils.losses.functional import kl_divergence, log_probabilities, target_of, without_target
from utils.losses.method import Method, at_least, temperature_of, within
from utils.losses.outputs import Outputs


class DKD(Method):
    """Decoupled knowledge distillation (Zhao et al., 2022, eq. 7).

    L = ce * CE + w * T^2 * (alpha * TCKD + beta * NCKD): the KL divergence of the target against the rest, and
    of the other classes among themselves. w rises from 0 to 1 in the first `warmup` of the training (20 of 240
    epochs in the paper).
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        ce: float = 1.0,
        warmup: float = 0.083,
    ):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.alpha, self.beta, self.ce = at_least(0, alpha=alpha, beta=beta, ce=ce)
        self.warmup = within(0, 1, "warmup", warmup)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        target, others = decoupled(student.logits, teacher.logits, labels, self.temperature)
        scale = self.temperature**2 * self.risen(progress)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "TCKD": self.alpha * scale * target,
            "NCKD": self.beta * scale * others,
        }


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of logits [B, C] and labels int64 [B]: two scalars, averaged over the batch."""
    student, teacher = (log_probabilities(logits, temperature) for logits in (student_logits, teacher_logits))
    own_s, own_t = target_of(student, labels), target_of(teacher, labels)  # [B]
    others_s, others_t = without_target(student, labels), without_target(teacher, labels)  # [B, C - 1]
    rest_s, rest_t = others_s.logsumexp(1), others_t.logsumexp(1)  # log of the probability of all other classes
    target = own_t.exp() * (own_t - own_s) + rest_t.exp() * (rest_t - rest_s)
    return target.mean(), kl_divergence(others_s, others_t)
