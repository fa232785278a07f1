"""Knowledge distillation with refined logits."""

import torch
from torch import Tensor

from utils.losses.functional import (
    at_least_float32,
    kl_of_logs,
    log_probabilities,
    standardise,
    target_of,
    without_target,
)
from utils.losses.method import Method, at_least, temperature_of
from utils.losses.outputs import Outputs


class RLD(Method):
    """Knowledge distillation with refined logits (Sun et al., 2025).

    L = ce * CE + alpha * t^2 * SCD + beta * T^2 * MCD. SCD is the KL divergence of (target, rest) of the student
    against (largest class, rest) of the teacher, at the target temperature t; MCD is that of the classes that the
    teacher puts below the target, among themselves. What the teacher has wrong is so not learned. `standardize`
    gives the logits mean 0 and deviation 1 in each row.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        target_temperature: float = 1.0,
        standardize: bool = False,
        ce: float = 1.0,
    ):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.target_temperature = temperature_of(target_temperature, "target_temperature")
        self.alpha, self.beta, self.ce = at_least(0, alpha=alpha, beta=beta, ce=ce)
        self.standardize = standardize

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = student.logits, teacher.logits
        if self.standardize:
            ours, theirs = standardise(ours), standardise(theirs)
        confidence = sample_confidence(ours, theirs, labels, self.target_temperature)
        correlation = masked_correlation(ours, theirs, labels, self.temperature)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "SCD": self.alpha * self.target_temperature**2 * confidence,
            "MCD": self.beta * self.temperature**2 * correlation,
        }


def sample_confidence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL of (p_t(largest), rest) against (p_s(target), rest), for logits [B, C] and labels int64 [B]; a scalar."""
    log_s, log_t = (log_probabilities(each, temperature) for each in (student, teacher))
    largest = teacher.argmax(1)
    own_s, own_t = target_of(log_s, labels), target_of(log_t, largest)
    rest_s = without_target(log_s, labels).logsumexp(1)
    rest_t = without_target(log_t, largest).logsumexp(1)
    return (own_t.exp() * (own_t - own_s) + rest_t.exp() * (rest_t - rest_s)).mean()


def masked_correlation(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL among the classes that the teacher has below the target; 0 for a row that has none; a scalar."""
    below = teacher < target_of(teacher, labels)[:, None]  # [B, C]
    lowest = torch.finfo(torch.float32).min / 4
    log_s, log_t = (
        log_probabilities((at_least_float32(each) / temperature).masked_fill(~below, lowest))
        for each in (student, teacher)
    )
    return kl_of_logs(log_s, log_t).mean()  # of a row where no class is below, both are all the same
