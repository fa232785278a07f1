"""Decoupled knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.losses.method import Method, at_least, at_least_float32, temperature_of, within
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
        self.alpha, self.beta, self.ce = (
            at_least(0, "alpha", alpha),
            at_least(0, "beta", beta),
            at_least(0, "ce", ce),
        )
        self.warmup = within(0, 1, "warmup", warmup)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        target, others = decoupled(student.logits, teacher.logits, labels, self.temperature)
        scale = self.temperature**2
        if self.warmup:
            scale = scale * (progress / self.warmup).clamp(max=1)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "TCKD": self.alpha * scale * target,
            "NCKD": self.beta * scale * others,
        }


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of logits [B, C] and labels int64 [B]: two scalars, averaged over the batch.

    The target is left out by -inf and its terms are set to 0, so that nothing depends on how large a number stands
    in for infinity in the dtype at hand.
    """
    is_target = labels[:, None] == torch.arange(student_logits.shape[1], device=labels.device)  # [B, C]
    student, teacher = (
        F.log_softmax(at_least_float32(logits) / temperature, dim=1) for logits in (student_logits, teacher_logits)
    )
    own_s, own_t = (each.gather(1, labels[:, None])[:, 0] for each in (student, teacher))  # [B]
    student, teacher = (each.masked_fill(is_target, float("-inf")) for each in (student, teacher))
    rest_s, rest_t = student.logsumexp(1), teacher.logsumexp(1)  # log of the probability of all other classes
    target = own_t.exp() * (own_t - own_s) + rest_t.exp() * (rest_t - rest_s)
    teacher = teacher - rest_t[:, None]
    difference = (teacher - (student - rest_s[:, None])).masked_fill(is_target, 0)
    others = (teacher.exp() * difference).sum(1)
    return target.mean(), others.mean()
