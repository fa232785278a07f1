"""Each method against values of public implementations, in reference_losses.json and .npz."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.losses import Outputs, build_method
from utils.losses.at import attention_distance
from utils.losses.cc import neighbour_congruence
from utils.losses.fsp import flow
from utils.losses.nst import channel_discrepancy
from utils.losses.pkt import neighbour_divergence
from utils.losses.reviewkd import context_loss
from utils.losses.rkd import angles, relative_distances
from utils.losses.sp import similarity_distance

VALUES = np.load(Path(__file__).with_name("reference_losses.npz"))
CASES = {case["name"]: case for case in json.loads(Path(__file__).with_name("reference_losses.json").read_text())}


def built(spec: str, *terms: str, **names: str):
    """The sum of `terms` of a method, from logits and a case's parameters; `names` are those of its settings."""

    def loss(student, teacher, **params):
        settings = {names.get(key, key): value for key, value in params.items()}
        method = build_method(spec, **{"warmup": 0.0} | settings)
        outputs = method(Outputs(student), Outputs(teacher), torch.from_numpy(VALUES["target"]), torch.tensor(1.0))
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
