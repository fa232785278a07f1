import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from config import parse
from models import MODELS
from utils.data.sources import SOURCES
from utils.losses import OBJECTIVES, CrossEntropy, Distillation
from utils.losses.logits import kd_loss

TEMPERATURES = (0.5, 1.0, 4.0, 5.0, 20.0)


def logits(seed: int, rows: int = 8, classes: int = 10, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def reference_kd(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Hinton et al. (2015) written out: sums over classes of p * (log p - log q), in float64."""
    p = torch.exp(teacher.double() / temperature)
    p = p / p.sum(1, keepdim=True)
    q = torch.exp(student.double() / temperature)
    q = q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kd_loss_equals_the_formula_in_float64(temperature):
    student, teacher = logits(0), logits(1)
    expected = reference_kd(student, teacher, temperature)
    torch.testing.assert_close(kd_loss(student, teacher, temperature).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kd_gradient_equals_the_closed_form(temperature):
    """d/dz_s of T^2 KL is T (softmax(z_s/T) - softmax(z_t/T)) / B (Hinton et al., equation 2)."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    kd_loss(student, teacher, temperature).backward()
    q, p = (F.softmax(values.detach().double() / temperature, dim=1) for values in (student, teacher))
    torch.testing.assert_close(student.grad.double(), temperature * (q - p) / len(p), rtol=1e-5, atol=1e-7)


def golden_cases() -> list:
    content = json.loads((Path(__file__).parent / "kd_reference.json").read_text())
    inputs = {name: torch.tensor(values) for name, values in content["inputs"].items()}
    return [pytest.param(inputs, case, id=case["name"]) for case in content["cases"]]


@pytest.mark.parametrize(("inputs", "case"), golden_cases())
def test_kd_loss_and_gradient_agree_with_the_published_implementation(inputs, case):
    student = inputs["student_logits"].clone().requires_grad_()
    loss = kd_loss(student, inputs["teacher_logits"], case["temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(case["value"], rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(case["grad_l2"], rel=1e-5)
    assert student.grad.flatten()[:5].tolist() == pytest.approx(case["grad_first5"], rel=1e-4, abs=1e-7)


def test_kd_loss_passes_gradcheck():
    student, teacher = logits(2, 3, 4, torch.float64).requires_grad_(), logits(3, 3, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, teacher, 4.0), student)


def test_kd_loss_of_equal_logits_is_zero_whatever_is_added_to_them():
    student = logits(4)
    assert kd_loss(student, student + 7, 5.0).item() == pytest.approx(0, abs=1e-5)


def test_kd_loss_is_computed_in_float32_for_bfloat16_logits():
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    loss = kd_loss(student, teacher, 5.0)
    assert loss.dtype == torch.float32
    expected = reference_kd(student.double(), teacher.double(), 5.0).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_kd_loss_stays_in_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert kd_loss(logits(0), logits(1), 5.0).item() == kd_loss(logits(0), logits(1), 5.0).item()
        assert kd_loss(logits(0), logits(1), 5.0).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_kd_loss_and_gradient_are_finite_for_extreme_logits(temperature, size):
    student, teacher = (logits(0) * size).requires_grad_(), logits(1) * size
    loss = kd_loss(student, teacher, temperature)
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad.isfinite().all()


def test_gradient_keeps_its_size_when_the_temperature_rises():
    sizes = []
    for temperature in (10.0, 100.0):
        student = logits(0).requires_grad_()
        kd_loss(student, logits(1), temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_objective_weighs_distillation_with_alpha_and_cross_entropy_with_the_rest(alpha):
    student, teacher, labels = logits(0), logits(1), torch.arange(8)
    log_q = F.log_softmax(student.double(), 1)
    hard = -log_q[torch.arange(8), labels].mean()
    expected = (1 - alpha) * hard + alpha * reference_kd(student, teacher, 5.0)
    assert Distillation(alpha, 5.0)(student, teacher, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_objective_without_distillation_is_cross_entropy():
    student, labels = logits(0), torch.arange(8)
    expected = F.cross_entropy(student.double(), labels, label_smoothing=0.1).item()
    assert CrossEntropy(0.1)(student, None, labels).item() == pytest.approx(expected, rel=1e-6)
    assert Distillation(0.0, 5.0, 0.1)(student, logits(1), labels).item() == pytest.approx(expected, rel=1e-6)


def test_every_role_has_an_objective_that_says_what_it_is():
    texts = {}
    for run in parse("train.py", ["--all", "--temp", "5", "--alpha", "0.75"], MODELS, SOURCES).runs():
        texts[run.role] = str(OBJECTIVES[run.role](run))
    assert texts == {
        "teacher": "CE",
        "student": "CE",
        "kd": "0.25 * CE + 0.75 * 5^2 * KL at T = 5 (weights 0.25 and 18.75)",
    }
