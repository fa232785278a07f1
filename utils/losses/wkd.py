"""Wasserstein distance between the teacher's and the student's probabilities."""

import torch
from torch import Tensor

from utils.losses.functional import at_least_float32, log_probabilities
from utils.losses.method import Method, at_least, temperature_of
from utils.losses.outputs import Outputs

STEPS = 20  # of Sinkhorn's algorithm
# Each step but the first and the last goes so much further than it would (Thibault et al., 2021). For 10 and 100
# classes, 20 plain steps gave a gradient that was 8 to 28 % off, these 0 to 8 % off; with 1.7 some oscillate.
RELAXATION = 1.5
LEAST_EPSILON = 0.02  # below it, the steps are too few


class WKD(Method):
    """The logit part of Wasserstein distance rivals Kullback-Leibler divergence (Lv et al., 2024).

    L = ce * CE + weight * T^2 * W(p_t, p_s) at T: the cost of moving the student's probability to where the
    teacher has it, with an entropy of weight `epsilon`. To move it between similar classes costs
    little: 1 - exp(-kappa * (1 - r)), r the correlation of the teacher's logits of two classes over the batch. The
    paper takes r from features of all training images, W with its bias, and the target apart from the other
    classes; here the logits are enough, and W is 0 for a student that equals its teacher. It takes two tensors
    [B, C, C] of memory: 10 MB for a batch of 128 with 100 classes, 1 GB with 1,000.
    """

    compares_samples = True

    def __init__(
        self,
        temperature: float = 4.0,
        weight: float = 1.0,
        ce: float = 1.0,
        kappa: float = 1.0,
        epsilon: float = 0.05,
    ):
        super().__init__()
        self.temperature = temperature_of(temperature)
        self.weight, self.ce, self.kappa = at_least(0, weight=weight, ce=ce, kappa=kappa)
        (self.epsilon,) = at_least(LEAST_EPSILON, epsilon=epsilon)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        ours, theirs = (log_probabilities(each.logits, self.temperature) for each in (student, teacher))
        distance = sinkhorn_divergence(ours, theirs, class_costs(teacher.logits, self.kappa), self.epsilon)
        return {
            "CE": self.ce * self.cross_entropy(student, labels),
            "W": self.weight * self.temperature**2 * distance.mean(),
        }


def class_costs(logits: Tensor, kappa: float) -> Tensor:
    """What it costs to move probability from one class to another, from logits [B, C]; [C, C], 0 to 1."""
    columns = at_least_float32(logits).T  # [C, B]
    columns = columns - columns.mean(1, keepdim=True)
    columns = columns / columns.norm(dim=1, keepdim=True).clamp(min=1e-12)
    correlation = (columns @ columns.T).clamp(-1, 1)
    return (1 - torch.exp(-kappa * (1 - correlation))).fill_diagonal_(0)


def sinkhorn_divergence(log_student: Tensor, log_teacher: Tensor, costs: Tensor, epsilon: float) -> Tensor:
    """The Sinkhorn divergence of log probabilities [B, C], for each row; [B], 0 where both are equal.

    W(a, b) - W(a, a) / 2 - W(b, b) / 2 with the entropic W (Feydy et al., 2019). Its gradient is the
    difference of the potentials: the steps are not differentiated, and none of their [B, C, C] is kept.
    """
    with torch.no_grad():
        kernel = -costs / epsilon
        f, g = potentials(log_student, log_teacher, kernel)
        own_s, own_t = (potential_with_itself(each, kernel) for each in (log_student, log_teacher))
        f, g = epsilon * (f - own_s), epsilon * (g - own_t)
    return (f * log_student.exp() + g * log_teacher.exp()).sum(1)


def potentials(log_a: Tensor, log_b: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The potentials of both sides over epsilon, [B, C] each, by Sinkhorn's algorithm in logarithms."""
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for step in range(STEPS):
        share = 1.0 if step in (0, STEPS - 1) else RELAXATION
        f = torch.lerp(f, -torch.logsumexp(kernel + (g + log_b)[:, None, :], 2), share)
        g = torch.lerp(g, -torch.logsumexp(kernel + (f + log_a)[:, :, None], 1), share)
    return f, g


def potential_with_itself(log_a: Tensor, kernel: Tensor) -> Tensor:
    f = torch.zeros_like(log_a)
    for _ in range(STEPS):
        f = (f - torch.logsumexp(kernel + (f + log_a)[:, None, :], 2)) / 2
    return f
