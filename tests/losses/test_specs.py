"""The text of a method: its settings, names, sums, and what is refused."""

import math

import pytest
import torch
from examples import END, LABELS, adapted, outputs

from utils.losses import METHODS, build_method
from utils.losses.spec import list_methods, method_class, resolve_method, settings_of


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
    student, teacher = outputs(0), outputs(1)
    both = adapted("kd:alpha=0.5+fitnet:weight=2,stage=0", student, teacher)
    terms = both(student, teacher, LABELS, END)
    kd = build_method("kd:alpha=0.5")(student, teacher, LABELS, END)
    hint = both.methods[1](student, teacher, LABELS, END)["hint"]
    assert terms.keys() == {"CE", "KL", "hint"}
    torch.testing.assert_close(sum(terms.values()), sum(kd.values()) + hint)
    assert both.needs == "features"
    assert {name.split(".")[0] for name, _ in both.named_parameters()} == {"methods"}


def test_terms_of_the_same_name_in_a_sum_are_told_apart():
    student, teacher = outputs(0), outputs(1)
    terms = build_method("kd+ttm")(student, teacher, LABELS, END)
    assert terms.keys() == {"CE", "KL", "KL of TTM"}
    assert terms["KL of TTM"] == build_method("ttm")(student, teacher, LABELS, END)["KL"]


@pytest.mark.parametrize(
    ("spec", "needs", "compares", "strong"),
    [
        ("kd+tfkd", "logits", False, False),
        ("kd+rkd", "embedding", True, False),
        ("ofd+at+kd", "features+preactivations", False, False),
        ("kd+mlkd", "logits", True, True),
    ],
)
def test_a_sum_needs_what_its_methods_need(spec, needs, compares, strong):
    both = build_method(spec)
    assert (both.needs, both.compares_samples, both.strong_view) == (needs, compares, strong)


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
        ("kd+label_smoothing", "label_smoothing is a cross-entropy alone"),
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


NUMBERS = [
    (name, setting, default)
    for name in METHODS
    for setting, default in settings_of(method_class(name)).items()
    if not isinstance(default, bool)
]
WITHOUT_A_BOUND = {("fitnet", "stage")}  # it counts from the last one, too; `adapt` knows how many there are


@pytest.mark.parametrize(("name", "setting", "default"), NUMBERS, ids=[f"{n}-{s}" for n, s, _ in NUMBERS])
def test_no_setting_takes_what_is_out_of_range_or_no_number(name, setting, default):
    joint = "," if ":" in name else ":"
    values = ["nan", "inf", "-inf"] + ["-1"] * ((name, setting) not in WITHOUT_A_BOUND)
    for value in values:
        with pytest.raises(ValueError, match=rf"{name}.*{setting}.*{value}") as caught:
            resolve_method(f"{name}{joint}{setting}={value}")
        assert "\n" not in str(caught.value)
    assert resolve_method(f"{name}{joint}{setting}={default}").settings[setting] == default
