"""WKD against Sinkhorn's algorithm on probabilities in float64, run until it stands still."""

import math

import pytest
import torch
from examples import END, LABELS, logits, softmax
from torch import Tensor

from utils.losses import Outputs, build_method
from utils.losses.wkd import class_costs

S, T = logits(0), logits(1)


def transported(a: Tensor, b: Tensor, costs: Tensor, epsilon: float) -> float:
    """The entropic cost of moving a [C] to b [C], by Sinkhorn's algorithm on probabilities until it ends."""
    kernel, u = (-costs / epsilon).exp(), torch.ones_like(a)
    for _ in range(3000):
        before, v = u, b / (kernel.T @ u)
        u = a / (kernel @ v)
        if torch.allclose(u, before, rtol=1e-10, atol=0):
            break
    plan = u[:, None] * kernel * v
    return float((plan * costs).sum() + epsilon * (plan * (plan / (a[:, None] * b)).log()).sum())


def transport(student: Tensor, teacher: Tensor, costs: Tensor, epsilon: float) -> float:
    """The Sinkhorn divergence of the probabilities at T = 2 of two rows of logits [C]."""
    a, b = (torch.tensor(softmax(row, 2.0), dtype=torch.float64) for row in (student, teacher))
    own = transported(a, a, costs, epsilon) + transported(b, b, costs, epsilon)
    return transported(a, b, costs, epsilon) - own / 2


def test_the_cost_between_two_classes_is_that_of_the_papers_kernel_of_their_correlation():
    costs = class_costs(T, 0.7)
    for i in range(10):
        for j in range(10):
            a, b = (T[:, k].double() - T[:, k].double().mean() for k in (i, j))
            correlation = float((a * b).sum() / ((a**2).sum() * (b**2).sum()).sqrt())
            assert costs[i, j].item() == pytest.approx(1 - math.exp(-0.7 * (1 - correlation)), abs=1e-6)


@pytest.mark.parametrize(("epsilon", "precision"), [(0.5, 1e-5), (0.05, 0.002)])
def test_wkd_and_its_gradient_are_those_of_a_transport_that_has_converged(epsilon, precision):
    student = S[:4].clone().requires_grad_()
    method, costs = build_method(f"wkd:temperature=2,weight=3,epsilon={epsilon}"), class_costs(T[:4], 1.0)
    term = method(Outputs(student), Outputs(T[:4]), LABELS[:4], END)["W"]
    term.backward()
    costs, scale = costs.double(), 3 * 2**2 / 4
    expected = scale * sum(transport(s, t, costs, epsilon) for s, t in zip(S[:4], T[:4], strict=True))
    assert term.item() == pytest.approx(expected, rel=precision)
    step = torch.zeros(10, dtype=torch.float64)
    for row, column in ((0, 0), (2, 5), (3, 9)):
        step.zero_()[column] = 1e-3
        up, down = (transport(S[row] + sign * step, T[row], costs, epsilon) for sign in (1, -1))
        largest = student.grad[row].abs().max().item()
        assert student.grad[row, column].item() == pytest.approx(
            scale * (up - down) / 2e-3, abs=5 * precision * largest
        )


def test_the_steps_are_enough_for_a_student_near_its_teacher():
    student, teacher = (T + 0.1 * (S - T))[:4], T[:4]
    method, costs = build_method("wkd:temperature=2"), class_costs(teacher, 1.0).double()
    expected = 2**2 * sum(transport(s, t, costs, 0.05) for s, t in zip(student, teacher, strict=True)) / 4
    terms = method(Outputs(student), Outputs(teacher), LABELS[:4], END)
    assert terms["W"].item() == pytest.approx(expected, rel=0.02)
