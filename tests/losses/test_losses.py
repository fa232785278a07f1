"""Each method against published values, a formula in float64, and what breaks other implementations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.losses import METHODS, Outputs, build_method
from utils.losses.at import attention_distance
from utils.losses.cc import neighbour_congruence
from utils.losses.dkd import decoupled
from utils.losses.fsp import flow
from utils.losses.functional import kl_divergence, pair_stages
from utils.losses.method import CrossEntropy
from utils.losses.nst import channel_discrepancy
from utils.losses.pkt import neighbour_divergence
from utils.losses.reviewkd import context_loss
from utils.losses.rkd import angles, relative_distances
from utils.losses.sp import similarity_distance
from utils.losses.spec import list_methods, method_class, resolve_method, settings_of

TEMPERATURES = (0.5, 1.0, 4.0, 5.0, 20.0)
LOGIT_METHODS = [name for name in METHODS if method_class(name).needs in ("logits", "labels")]
END, LABELS = torch.tensor(1.0), torch.arange(8) % 10


def logits(seed: int, rows: int = 8, classes: int = 10, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def features(seed: int, *shapes: tuple[int, ...]) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    return Outputs(logits(seed), None, tuple(torch.randn(shape, generator=random) for shape in shapes))


# --- values of the methods' public implementations ------------------------------------------------

VALUES = np.load(Path(__file__).with_name("reference_losses.npz"))
CASES = {case["name"]: case for case in json.loads(Path(__file__).with_name("reference_losses.json").read_text())}


def built(spec: str, *terms: str, **names: str):
    """The sum of `terms` of a method, from logits and a case's parameters; `names` are those of its settings."""

    def loss(student, teacher, **params):
        settings = {names.get(key, key): value for key, value in params.items()}
        method = build_method(spec, **{"warmup": 0.0} | settings)
        outputs = method(Outputs(student), Outputs(teacher), torch.from_numpy(VALUES["target"]), END)
        assert outputs.keys() == {"CE", *terms}
        return sum(outputs[term] for term in terms)

    return loss


# what stands for the case's `loss`: from its inputs and parameters to its value
IMPLEMENTED = {
    "kd": built("kd:alpha=1", "KL"),
    "kd with logit standardization (unbiased std, eps 1e-7)": built("kd:standardize,weight=1", "KL"),
    "dkd": built("dkd", "TCKD", "NCKD"),
    "dist": built("dist", "classes", "samples"),
    "ttm: KL(p_t^gamma renormalised || softmax(z_s)), mean over the batch": built("ttm", "KL"),
    "wttm: as ttm, each sample weighted by sum_k p_t^gamma": built("wttm", "KL"),
    "nkd without its CE": built("nkd", "target", "others"),
    "rld without its CE": built("rld", "SCD", "MCD", alpha_temperature="target_temperature"),
    "rld without its CE, logits standardised (unbiased std, eps 1e-7)": built(
        "rld", "SCD", "MCD", alpha_temperature="target_temperature"
    ),
    "alpha-beta divergence, mean over the batch, without T^2": lambda student, teacher, **params: (
        built("abkd", "AB")(student, teacher, **params) / params["temperature"] ** 2
    ),
    "fitnet hint after the regressor": F.mse_loss,
    "attention transfer p=2 (one layer)": attention_distance,
    "similarity-preserving": similarity_distance,
    "rkd": lambda student, teacher, distance, angle: sum(
        weight * F.smooth_l1_loss(relation(student), relation(teacher))
        for weight, relation in ((distance, relative_distances), (angle, angles))
    ),
    "pkt": neighbour_divergence,
    "correlation congruence": neighbour_congruence,
    "nst poly kernel": channel_discrepancy,
    "fsp (two layers)": lambda s1, s2, t1, t2: F.mse_loss(flow(s1, s2), flow(t1, t2)),
    "reviewkd hierarchical context loss (one level)": context_loss,
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_agree_with_the_published_implementation(name):
    case = CASES[name]
    students = [torch.from_numpy(VALUES[each]).clone().requires_grad_() for each in case["student"]]
    teachers = [torch.from_numpy(VALUES[each]) for each in case["teacher"]]
    loss = IMPLEMENTED[case["loss"]](*students, *teachers, **case["params"])
    loss.backward()
    assert loss.item() == pytest.approx(case["value"], rel=1e-5)
    for student, norm, first in zip(students, case["grad_l2"], case["grad_first5"], strict=True):
        assert student.grad.norm().item() == pytest.approx(norm, rel=1e-5)
        assert student.grad.flatten()[:5].tolist() == pytest.approx(first, rel=1e-4, abs=1e-7)


# --- KD ---------------------------------------------------------------------------------------------


def reference_kd(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
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
    """d/dz_s of T^2 KL is T (softmax(z_s/T) - softmax(z_t/T)) / B (Hinton et al., equation 2)."""
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


# --- DKD --------------------------------------------------------------------------------------------


def test_dkd_with_equal_weights_is_kd_when_the_teacher_is_as_sure_of_the_target():
    """KD = TCKD + (1 - p_t) NCKD (Zhao et al., 2022, eq. 4), in float64."""
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


# --- FitNet -----------------------------------------------------------------------------------------


def test_a_hint_is_the_distance_of_a_stage_after_a_trained_projection():
    student, teacher = features(0, (8, 3, 16, 16), (8, 5, 8, 8)), features(1, (8, 4, 16, 16), (8, 6, 8, 8))
    method = build_method("fitnet:weight=2,stage=1")
    method.adapt(student, teacher)
    terms = method(student, teacher, LABELS, END)
    weight, bias = (p.double() for p in method.regressor.parameters())  # [6, 5, 1, 1], [6]
    projected = torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], student.features[1].double())
    difference = projected + bias[:, None, None] - teacher.features[1].double()
    assert terms["hint"].item() == pytest.approx(2 * difference.square().mean().item(), rel=1e-5)
    terms["hint"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())


def test_stages_are_paired_by_resolution():
    student, teacher = features(0, (8, 3, 16, 16), (8, 3, 8, 8)), features(1, (8, 4, 8, 8), (8, 4, 4, 4))
    [(ours, theirs)] = pair_stages(student, teacher)
    assert ours is student.features[1]
    assert theirs is teacher.features[0]
    with pytest.raises(ValueError, match=r"no stage of the same resolution .* 16x16.*4x4"):
        pair_stages(features(0, (8, 3, 16, 16)), features(1, (8, 4, 4, 4)))


# --- what breaks other implementations, for all methods on logits ------------------------------------


@pytest.mark.parametrize("name", LOGIT_METHODS)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (logits(0) * 1000, logits(1) * 1000),  # log(softmax) of these is log(0)
        (logits(0) * 1000, logits(0) * -1000),
        (logits(0), logits(0)),
        (torch.zeros(8, 10), torch.zeros(8, 10)),
        (logits(0).half() * 1000, logits(1).half() * 1000),
        (logits(0).bfloat16(), logits(1).half()),
    ],
    ids=["extreme", "opposite", "equal", "constant", "extreme half", "mixed halves"],
)
def test_value_and_gradient_stay_finite(name, student, teacher):
    student = student.clone().requires_grad_()
    terms = build_method(name)(Outputs(student), Outputs(teacher), LABELS, END)
    loss = sum(terms.values())
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_two_classes_are_enough(name):
    student = logits(0, classes=2).requires_grad_()
    terms = build_method(name)(Outputs(student), Outputs(logits(1, classes=2)), LABELS % 2, END)
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", [{"wkd": "wkd:epsilon=1"}.get(name, name) for name in LOGIT_METHODS])
def test_the_gradient_passes_gradcheck_and_none_reaches_the_teacher(name):
    student = logits(2, 3, 4, torch.float64).requires_grad_()
    teacher = logits(3, 3, 4, torch.float64)

    def loss(values):
        return sum(build_method(name)(Outputs(values), Outputs(teacher), LABELS[:3], END).values())

    assert torch.autograd.gradcheck(loss, student)


DIVERGENCES = ("kd", "kd:standardize", "dkd", "dist", "ttm:gamma=1", "wttm:gamma=1", "abkd", "wkd", "ctkd")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_equals_its_teacher_has_only_its_cross_entropy(name):
    student = logits(4)
    terms = build_method(name)(Outputs(student), Outputs(student + 7), LABELS, END)
    assert sum(value.item() for term, value in terms.items() if term != "CE") == pytest.approx(0, abs=1e-4)


# --- specs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_a_method_are_its_constructors_and_stand_in_the_list(name):
    resolved = resolve_method(name)
    assert resolved.settings == settings_of(method_class(name)) == resolved.defaults
    assert all(f"{setting}=" in list_methods() for setting in resolved.settings)
    assert isinstance(resolved.build(), method_class(name))


@pytest.mark.parametrize(
    ("text", "overrides", "spec", "slug"),
    [
        ("kd", {}, "kd", "t5"),
        ("kd", {"temperature": 2.5}, "kd:temperature=2.5", "t2.5"),
        ("kd:temperature=5", {"temperature": 2.0}, "kd", "t5"),  # what the spec names, no flag overrides
        ("kd:alpha=0.5", {}, "kd:alpha=0.5", "t5-a0.5"),
        ("dkd:beta=2", {}, "dkd:beta=2", "beta2"),
        ("dkd:beta=8", {"temperature": 4.0}, "dkd", ""),
        ("dkd:beta=1e-7,alpha=2", {}, "dkd:alpha=2,beta=1e-07", "a2-beta1e-07"),
        ("fitnet:stage=0", {"temperature": 9.0}, "fitnet:stage=0", "stage0"),
    ],
)
def test_a_spec_is_read_shortened_and_gives_a_folder_its_name(text, overrides, spec, slug):
    resolved = resolve_method(text, **overrides)
    assert (resolved.spec, resolved.slug()) == (spec, slug)
    assert resolve_method(resolved.spec).settings == resolved.settings


def test_methods_add_up_and_the_cross_entropy_counts_once():
    student, teacher = features(0, (8, 3, 16, 16)), features(1, (8, 4, 16, 16))
    both = build_method("kd:alpha=0.5+fitnet:weight=2,stage=0", temperature=3)
    both.adapt(student, teacher)
    terms = both(student, teacher, LABELS, END)
    kd = build_method("kd:alpha=0.5,temperature=3")(student, teacher, LABELS, END)
    hint = both.methods[1](student, teacher, LABELS, END)["hint"]
    assert terms.keys() == {"CE", "KL", "hint"}
    torch.testing.assert_close(sum(terms.values()), sum(kd.values()) + hint)
    assert both.needs == "features"
    assert {name.split(".")[0] for name, _ in both.named_parameters()} == {"methods"}


@pytest.mark.parametrize(
    ("text", "spec", "folder", "slug", "label"),
    [
        ("kd:standardize", "kd:standardize", "kd-standardize", "t2", "StandardisedKD"),
        ("kd:weight=3,standardize", "kd:standardize,weight=3", "kd-standardize", "t2-weight3", "StandardisedKD"),
        ("kd+fitnet", "kd+fitnet", "kd+fitnet", "t5", "KD + FitNet"),
        ("kd:alpha=1e+0+fitnet:ce=2", "kd:alpha=1+fitnet:ce=2", "kd+fitnet", "t5-a1-fitnet.ce2", "KD + FitNet"),
        ("rld:standardize", "rld:standardize=true", "rld", "standardize", "RLD"),
    ],
)
def test_forms_and_sums_of_methods_have_specs_folders_and_titles(text, spec, folder, slug, label):
    resolved = resolve_method(text)
    assert (resolved.spec, resolved.folder, resolved.slug(), resolved.label) == (spec, folder, slug, label)
    assert resolve_method(resolved.spec).settings == resolved.settings


def test_a_folder_of_a_sweep_names_what_is_swept_even_at_its_default():
    assert resolve_method("kd").slug("temperature", "alpha") == "t5-a0.9"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dkdd", "unknown method 'dkdd', did you mean dkd.*methods: kd, kd:standardize, dkd"),
        ("dkd:bta=2", "dkd has no setting 'bta', did you mean beta.*settings: temperature, alpha"),
        ("dkd:beta=two", "dkd:beta=two is not a number"),
        ("dkd:beta", "dkd:beta= is not a number"),
        ("fitnet:stage=1.5", "fitnet:stage=1.5 is not a whole number"),
        ("dkd:beta=-1", "dkd: beta -1 is not a number of at least 0"),
        ("dkd:beta=nan", "dkd: beta nan is not"),
        ("dkd:beta=inf", "dkd: beta inf is not"),
        ("kd:temperature=0", "kd: temperature 0 is not from 0.01 to 10000"),
        ("kd:alpha=1.5", "kd: alpha 1.5 is not from 0 to 1"),
        ("kd:standardise", "kd has no setting 'standardise', did you mean standardize"),
        ("kd:standardize,alpha=0.5", "kd:standardize has no setting 'alpha'"),
        ("kd+fitnett", "unknown method 'fitnett', did you mean fitnet"),
        ("kd+kd", r"kd\+kd names a method twice"),
        ("abkd:alpha=1e-5", "alpha 1e-05 is neither 0 nor at least 0.001"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_in_one_line_that_names_the_fix(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve_method(spec)
    assert "\n" not in str(caught.value)


def test_the_formula_tells_the_weights():
    assert build_method("kd").formula() == "0.1 * CE + 0.9 * 5^2 * KL at T = 5 (weights 0.1 and 22.5)"
    assert build_method("dkd").formula() == "DKD with temperature 4, alpha 1, beta 8, ce 1, warmup 0.083"
    assert math.isclose(build_method("kd").temperature, 5)
