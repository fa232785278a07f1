"""Multi-level logit distillation."""

from torch import Tensor

from utils.losses.functional import kl_divergence, log_probabilities
from utils.losses.method import Method, at_least
from utils.losses.outputs import Outputs

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class MLKD(Method):
    """Multi-level logit distillation (Jin, Wang and Lin, 2023).

    L = ce * CE + weight * (instances + samples + classes), each the mean over the temperatures 2, 3, 4, 5 and 6:
    T^2 * KL for the usual and the strong view of each image; and for the usual view, with P [B, C] of
    probabilities, the squared differences of P P^T between the networks over B, and those of P^T P over C. The
    authors add the temperatures up.
    """

    compares_samples = True
    strong_view = True

    def __init__(self, weight: float = 1.0, ce: float = 1.0):
        super().__init__()
        self.weight, self.ce = at_least(0, weight=weight, ce=ce)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        terms = {"instances": 0.0, "samples": 0.0, "classes": 0.0}
        for temperature in TEMPERATURES:
            ours, theirs = (
                log_probabilities(each.logits.chunk(2)[0], temperature).exp() for each in (student, teacher)
            )
            share = self.weight / len(TEMPERATURES)
            instances = 2 * kl_divergence(student.logits, teacher.logits, temperature)  # the mean of both views
            terms["instances"] += share * temperature**2 * instances
            terms["samples"] += share * (ours @ ours.T - theirs @ theirs.T).square().sum() / len(ours)
            terms["classes"] += share * (ours.T @ ours - theirs.T @ theirs).square().sum() / ours.shape[1]
        return {"CE": self.ce * self.cross_entropy(student, labels), **terms}
