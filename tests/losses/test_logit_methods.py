"""Each method on logits against its formula, written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import END, LABELS, logits, softmax
from torch import Tensor

from utils.losses import Outputs, build_method
from utils.losses.dkd import decoupled
from utils.losses.functional import kl_divergence
from utils.losses.method import CrossEntropy

TEMPERATURES = (0.5, 1.0, 4.0, 5.0, 20.0)
S, T = logits(0), logits(1)


def terms_of(spec: str, student: Tensor = S, progress: float = 1.0, ce: float = 1.0) -> dict[str, float]:
    """The terms by name, of which the cross-entropy is checked."""
    terms = build_method(spec)(Outputs(student), Outputs(T), LABELS, torch.tensor(progress))
    expected = -sum(math.log(softmax(row)[label]) for row, label in zip(student, LABELS, strict=True)) / len(
        student
    )
    assert terms["CE"].item() == pytest.approx(ce * expected, rel=1e-5)
    return {name: term.item() for name, term in terms.items() if name != "CE"}


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(function, temperature: float = 1.0) -> float:
    """Of `function` of the teacher's and the student's probabilities and the label, over the batch."""
    rows = zip(T, S, LABELS.tolist(), strict=True)
    values = [function(softmax(t, temperature), softmax(s, temperature), label) for t, s, label in rows]
    return sum(values) / len(values)


# KD, DKD, and the cross-entropy.


def reference_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton et al. (2015) written out: sums over classes of p * (log p - log q), in float64."""
    p = torch.exp(teacher.double() / temperature)
    p = p / p.sum(1, keepdim=True)
    q = torch.exp(student.double() / temperature)
    q = q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kd_equals_the_formula_in_float64(temperature):
    student, teacher = logits(0), logits(1)
    terms = build_method("kd:alpha=0.7", temperature=temperature)(Outputs(student), Outputs(teacher), LABELS, END)
    hard = F.cross_entropy(student.double(), LABELS)
    expected = 0.3 * hard + 0.7 * reference_kd(student, teacher, temperature)
    torch.testing.assert_close(sum(terms.values()).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_of_kd_equals_the_closed_form(temperature):
    """d/dz_s of T^2 KL is T (softmax(z_s/T) - softmax(z_t/T)) / B (Hinton et al., 2015)."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    terms = build_method(f"kd:alpha=1,temperature={temperature}")(Outputs(student), Outputs(teacher), LABELS, END)
    terms["KL"].backward()
    q, p = (F.softmax(values.detach().double() / temperature, dim=1) for values in (student, teacher))
    torch.testing.assert_close(student.grad.double(), temperature * (q - p) / len(p), rtol=1e-5, atol=1e-7)


def test_the_smallest_temperature_keeps_kd_finite():
    student = logits(0).requires_grad_()
    terms = build_method("kd:temperature=0.01")(Outputs(student), Outputs(logits(1)), LABELS, END)
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()


def test_label_smoothing_moves_the_cross_entropy_of_every_method_to_the_uniform_distribution():
    student, smoothing = logits(0), 0.1
    log_p = F.log_softmax(student.double(), dim=1)
    expected = (1 - smoothing) * F.nll_loss(log_p, LABELS) - smoothing * log_p.mean(1).mean()
    method = CrossEntropy()
    method.label_smoothing = smoothing
    torch.testing.assert_close(method(Outputs(student), None, LABELS, END)["CE"].double(), expected)
    terms = build_method("dkd", smoothing)(Outputs(student), Outputs(logits(1)), LABELS, END)
    torch.testing.assert_close(terms["CE"].double(), expected)


def test_dkd_with_equal_weights_is_kd_when_the_teacher_is_as_sure_of_the_target():
    """KD = TCKD + (1 - p_t) NCKD (Zhao et al., 2022), in float64."""
    student, teacher = logits(0, dtype=torch.float64), logits(1, dtype=torch.float64)
    for row in range(8):
        one = slice(row, row + 1)
        target, others = decoupled(student[one], teacher[one], LABELS[one], 1.0)
        sure = F.softmax(teacher[one], dim=1)[0, LABELS[row]]
        expected = kl_divergence(student[one], teacher[one], 1.0)
        torch.testing.assert_close(target + (1 - sure) * others, expected)


def test_the_warm_up_of_dkd_raises_its_own_terms_alone():
    def terms(progress: float):
        method = build_method("dkd:warmup=0.5")
        return method(Outputs(logits(0)), Outputs(logits(1)), LABELS, torch.tensor(progress))

    start, quarter, half, end = (terms(progress) for progress in (0.0, 0.25, 0.5, 1.0))
    assert start["TCKD"] == start["NCKD"] == 0
    assert quarter["NCKD"].item() == pytest.approx(end["NCKD"].item() / 2)
    assert half["TCKD"].item() == end["TCKD"].item()
    assert start["CE"] == end["CE"] > 0


# Divergences and cross-entropies.


def test_the_terms_of_dkd_are_the_target_against_the_rest_and_the_rest_among_themselves():
    def target(p, q, label):
        return kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])

    def others(p, q, label):
        return kl(*([x / (1 - r[label]) for i, x in enumerate(r) if i != label] for r in (p, q)))

    terms = terms_of("dkd:temperature=2,alpha=3,beta=5")
    expected = {"TCKD": 3 * 4 * mean(target, 2.0), "NCKD": 5 * 4 * mean(others, 2.0)}
    assert terms == pytest.approx(expected, rel=1e-5)


def test_the_terms_of_nkd_are_cross_entropies():
    def others(p, q, label):
        p, q = ([x / (1 - r[label]) for i, x in enumerate(r) if i != label] for r in (p, q))
        return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))

    expected = {"target": mean(lambda p, q, y: -p[y] * math.log(q[y])), "others": 3 * 4 * mean(others, 2.0)}
    assert terms_of("nkd:temperature=2,gamma=3") == pytest.approx(expected, rel=1e-5)


def test_the_terms_of_rld_are_the_confidence_and_the_classes_below_the_target():
    def confidence(p, q, label):
        return kl([max(p), 1 - max(p)], [q[label], 1 - q[label]])

    def below(p, q, label):
        p, q = ([x for x, t in zip(r, p, strict=True) if t < p[label]] for r in (p, q))
        return kl([x / sum(p) for x in p], [x / sum(q) for x in q]) if p else 0.0

    spec = "rld:temperature=2,target_temperature=3,alpha=5,beta=7"
    expected = {"SCD": 5 * 9 * mean(confidence, 3.0), "MCD": 7 * 4 * mean(below, 2.0)}
    assert terms_of(spec) == pytest.approx(expected, rel=1e-5)


def test_a_target_that_the_teacher_has_lowest_leaves_rld_no_class_to_compare():
    student, lowest = S.clone().requires_grad_(), T.argmin(1)
    terms = build_method("rld")(Outputs(student), Outputs(T), lowest, END)
    terms["MCD"].backward()
    assert terms["MCD"] == 0
    assert student.grad.abs().sum() == 0


def test_ttm_raises_the_teachers_probabilities_to_a_power_and_wttm_weighs_by_their_sum():
    def transformed(p, q, _label):
        powers = [x**0.3 for x in p]
        return kl([x / sum(powers) for x in powers], q)

    assert terms_of("ttm:gamma=0.3,weight=2") == pytest.approx({"KL": 2 * mean(transformed)}, rel=1e-5)
    weighted = mean(lambda p, q, y: sum(x**0.3 for x in p) * transformed(p, q, y))
    assert terms_of("wttm:gamma=0.3,weight=2") == pytest.approx({"KL": 2 * weighted}, rel=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (2.0, 1.0)])
def test_abkd_is_the_alpha_beta_divergence(alpha, beta):
    def divergence(p, q, _label):
        first, second = alpha / (alpha + beta), beta / (alpha + beta)
        return sum(
            first * a ** (alpha + beta) + second * b ** (alpha + beta) - a**alpha * b**beta
            for a, b in zip(p, q, strict=True)
        ) / (alpha * beta)

    terms = terms_of(f"abkd:temperature=2,weight=3,alpha={alpha},beta={beta}")
    assert terms == pytest.approx({"AB": 3 * 4 * mean(divergence, 2.0)}, rel=1e-5)


LIMITS = {
    (1.0, 0.0): lambda p, q, _: kl(p, q),
    (0.0, 1.0): lambda p, q, _: kl(q, p),
    (0.0, 0.0): lambda p, q, _: sum(math.log(a / b) ** 2 for a, b in zip(p, q, strict=True)) / 2,
}


@pytest.mark.parametrize(("alpha", "beta"), LIMITS)
def test_abkd_has_kl_and_reverse_kl_as_limits_and_comes_near_them(alpha, beta):
    expected = mean(LIMITS[alpha, beta])
    assert terms_of(f"abkd:alpha={alpha},beta={beta}")["AB"] == pytest.approx(expected, rel=1e-5)
    near = terms_of(f"abkd:alpha={alpha or 0.001},beta={beta or 0.001}")["AB"]
    assert near == pytest.approx(expected, rel=0.03)


def test_mse_is_that_of_the_logits():
    expected = sum((a - b) ** 2 for a, b in zip(S.flatten().tolist(), T.flatten().tolist(), strict=True)) / 80
    assert terms_of("mse:weight=3,ce=2", ce=2) == pytest.approx({"MSE": 3 * expected}, rel=1e-5)


def test_dist_is_one_minus_the_correlations_of_classes_and_of_samples():
    def correlation(a: Tensor, b: Tensor) -> float:
        a, b = (each - each.mean() for each in (a, b))
        return float((a * b).sum() / ((a**2).sum() * (b**2).sum()).sqrt())

    q, p = (torch.tensor([softmax(row, 2.0) for row in each], dtype=torch.float64) for each in (S, T))
    classes, samples = (
        sum(1 - correlation(a, b) for a, b in zip(*pair, strict=True)) / len(pair[0])
        for pair in ((q, p), (q.T, p.T))
    )
    expected = {"classes": 3 * 4 * classes, "samples": 5 * 4 * samples}
    assert terms_of("dist:temperature=2,beta=3,gamma=5") == pytest.approx(expected, rel=1e-5)


def test_mlkd_compares_instances_samples_and_classes_at_five_temperatures():
    """The first half of a batch are the usual views, the second half the strong ones."""
    instances = samples = classes = 0.0
    for temperature in (2, 3, 4, 5, 6):
        q, p = ([softmax(row, temperature) for row in each] for each in (S, T))
        instances += temperature**2 * sum(kl(a, b) for a, b in zip(p, q, strict=True)) / 4
        q, p = q[:4], p[:4]
        for i in range(4):
            for j in range(4):
                own, other = (sum(a * b for a, b in zip(r[i], r[j], strict=True)) for r in (q, p))
                samples += (own - other) ** 2 / 4
        for i in range(10):
            for j in range(10):
                own, other = (sum(row[i] * row[j] for row in r) for r in (q, p))
                classes += (own - other) ** 2 / 10
    expected = {"instances": instances, "samples": samples, "classes": classes}
    expected = {name: 3 * value / 5 for name, value in expected.items()}
    assert terms_of("mlkd:weight=3") == pytest.approx(expected, rel=1e-5)


# Without a teacher.


def test_tfkd_has_a_teacher_made_by_hand():
    def divergence(_p, q, label):
        made = [0.9 if index == label else 0.1 / 9 for index in range(10)]
        return kl(softmax(torch.tensor(made, dtype=torch.float64), 0.2), q)

    terms = terms_of("tfkd:alpha=0.3,correct=0.9,temperature=0.2", ce=0.7)
    assert terms == pytest.approx({"KL": 0.3 * mean(divergence)}, rel=1e-5)


def test_label_smoothing_is_a_cross_entropy_with_a_share_for_all_classes():
    def smoothed(_p, q, label):
        return -sum((0.7 * (index == label) + 0.3 / 10) * math.log(x) for index, x in enumerate(q))

    terms = build_method("label_smoothing:smoothing=0.3")(Outputs(S), None, LABELS, END)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"CE": mean(smoothed)}, rel=1e-5)


# CTKD: a temperature that learns.


@pytest.mark.parametrize(
    ("progress", "force"), [(0.0, 0.0), (0.1, 0.5), (0.05, (1 - math.sqrt(0.5)) / 2), (0.7, 1.0)]
)
def test_the_temperature_of_ctkd_learns_against_the_student_with_a_rising_force(progress, force):
    def expected(theta: float) -> float:
        temperature = 2 + 6 / (1 + math.exp(-theta))
        return 0.7 * temperature**2 * mean(lambda p, q, _: kl(p, q), temperature)

    method = build_method("ctkd:alpha=0.7,lowest=2,span=6,warmup=0.2")
    method.theta.data.fill_(0.3)
    student = S.clone().requires_grad_()
    term = method(Outputs(student), Outputs(T), LABELS, torch.tensor(progress))["KL"]
    term.backward()
    assert term.item() == pytest.approx(expected(0.3), rel=1e-5)
    slope = (expected(0.3 + 1e-4) - expected(0.3 - 1e-4)) / 2e-4
    assert method.theta.grad.item() == pytest.approx(-force * slope, rel=1e-3, abs=1e-6)
    temperature = 2 + 6 / (1 + math.exp(-0.3))
    q, p = (F.softmax(values.double() / temperature, dim=1) for values in (S, T))
    torch.testing.assert_close(student.grad.double(), 0.7 * temperature * (q - p) / 8, rtol=1e-4, atol=1e-7)
