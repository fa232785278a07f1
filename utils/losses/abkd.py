"""Alpha-beta divergence between the teacher's and the student's probabilities."""

from torch import Tensor

from utils.losses.functional import log_probabilities
from utils.losses.method import Method, at_least, temperature_of
from utils.losses.outputs import Outputs

SMALLEST = 1e-3  # of alpha and beta above 0: differences of float32 numbers are divided by them


class ABKD(Method):
    """Alpha-beta divergence (Wang et al., 2025).

    L = ce * CE + weight * T^2 * D(p_t, p_s) at T, with D = sum over classes of (alpha / (alpha + beta) *
    p_t^(alpha + beta) + beta / (alpha + beta) * p_s^(alpha + beta) - p_t^alpha * p_s^beta) / (alpha * beta). alpha
    = 1 with beta = 0 is the KL divergence, 0 with 1 the reverse one; values of 0 take the limits.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        alpha: float = 0.8,
        beta: float = 0.3,
        weight: float = 1.0,
        ce: float = 1.0,
    ):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.alpha, self.beta, self.weight, self.ce = at_least(0, alpha=alpha, beta=beta, weight=weight, ce=ce)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if 0 < value < SMALLEST:
                raise ValueError(f"{name} {value:g} is neither 0 nor at least {SMALLEST:g}")

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = (log_probabilities(each.logits, self.temperature) for each in (student, teacher))
        divergence = alpha_beta(ours, theirs, self.alpha, self.beta)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "AB": self.weight * self.temperature**2 * divergence.mean(),
        }


def alpha_beta(log_student: Tensor, log_teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """The divergence of log probabilities [B, C], for each row; [B]. alpha and beta of 0 take the limits."""
    total, difference = alpha + beta, log_teacher - log_student
    if total == 0:
        return difference.square().sum(1) / 2
    mixed = (alpha * log_teacher + beta * log_student).exp()
    # The two parts as differences, each of which has a limit of its own.
    first = ((total * log_teacher).exp() - mixed) / beta if beta else mixed * difference
    second = ((total * log_student).exp() - mixed) / alpha if alpha else -mixed * difference
    return (first + second).sum(1) / total
