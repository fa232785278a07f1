"""Each method on feature maps against its formula, written out in float64."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from examples import END, LABELS, STUDENT, TEACHER, adapted, connected, convolved, each, outputs
from torch import Tensor

from utils.losses import Outputs, build_method
from utils.losses.functional import pair_stages

OURS, THEIRS = outputs(0, STUDENT), outputs(1, TEACHER)
DOUBLE = [each(given, lambda tensor: tensor.double()) for given in (OURS, THEIRS)]
PAIRS = list(zip(*(given.features for given in DOUBLE), strict=True))
BEFORE_RELU = list(zip(*(given.preactivations for given in DOUBLE), strict=True))


def features(*shapes: tuple[int, ...]) -> Outputs:
    return Outputs(torch.zeros(2, 10), None, tuple(torch.rand(2, *shape) for shape in shapes))


def term(method, name: str) -> float:
    terms = method(OURS, THEIRS, LABELS, END)
    assert terms["CE"].item() == pytest.approx(F.cross_entropy(DOUBLE[0].logits, LABELS).item(), rel=1e-5)
    return terms[name].item()


def mean_square(a: Tensor, b: Tensor) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / a.numel()


def test_a_hint_is_the_distance_of_a_stage_after_a_trained_projection():
    method = adapted("fitnet:weight=2,stage=1", OURS, THEIRS)
    expected = mean_square(convolved(PAIRS[1][0], method.regressor), PAIRS[1][1])
    assert term(method, "hint") == pytest.approx(2 * expected, rel=1e-5)


def test_attention_is_the_mean_square_of_the_channels_with_norm_one():
    def attention(maps: Tensor, image: int) -> list[float]:
        squares = [sum(v**2 for v in pixel) for pixel in maps[image].flatten(1).T.tolist()]
        norm = math.sqrt(sum(value**2 for value in squares))
        return [value / norm for value in squares]

    expected = 0.0
    for ours, theirs in PAIRS:
        differences = [
            (a - b) ** 2
            for image in range(8)
            for a, b in zip(attention(ours, image), attention(theirs, image), strict=True)
        ]
        expected += sum(differences) / len(differences)
    assert term(adapted("at:weight=10", OURS, THEIRS), "attention") == pytest.approx(10 * expected, rel=1e-5)


def test_similarities_are_products_of_the_last_stage_with_norm_one_in_each_row():
    def similarities(maps: Tensor) -> list[list[float]]:
        rows = [[float(a.flatten() @ b.flatten()) for b in maps] for a in maps]
        return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in rows]

    ours, theirs = (similarities(maps) for maps in PAIRS[-1])
    expected = sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(8) for j in range(8)) / 8**2
    assert term(adapted("sp:weight=10", OURS, THEIRS), "similarity") == pytest.approx(10 * expected, rel=1e-5)


def test_the_discrepancy_of_channels_is_summed_over_the_stages():
    def kernel(first: Tensor, second: Tensor) -> float:
        values = [float((a.flatten() @ b.flatten()) / (a.norm() * b.norm())) ** 2 for a in first for b in second]
        return sum(values) / len(values)

    expected = 0.0
    for ours, theirs in PAIRS:
        for s, t in zip(ours, theirs, strict=True):
            expected += (kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)) / 8
    assert term(adapted("nst:weight=10", OURS, THEIRS), "discrepancy") == pytest.approx(10 * expected, rel=1e-4)


@pytest.mark.parametrize("connect", [True, False], ids=["other channels", "same channels"])
def test_the_flow_between_two_stages_is_the_product_of_their_channels_over_the_pixels(connect):
    theirs = THEIRS if connect else outputs(1, STUDENT)
    method = adapted("fsp:weight=10", OURS, theirs)
    assert (sum(p.numel() for p in method.parameters()) > 0) == connect
    ours = [maps for maps, _ in PAIRS]
    if connect:
        ours = [connected(maps, layers) for maps, layers in zip(ours, method.connectors, strict=True)]

    def flow(first: Tensor, second: Tensor) -> Tensor:  # [B, c, d]
        height, width = second.shape[2:]
        blocks = first.reshape(*first.shape[:2], height, 2, width, 2).mean((3, 5))  # larger maps are pooled
        return torch.einsum("bchw,bdhw->bcd", blocks, second) / (height * width)

    expected = sum(
        mean_square(flow(*mine), flow(*(maps.double() for maps in other)))
        for mine, other in zip(itertools.pairwise(ours), itertools.pairwise(theirs.features), strict=True)
    )
    value = method(OURS, theirs, LABELS, END)["flow"].item()
    assert value == pytest.approx(10 * expected, rel=1e-4)


def test_the_information_is_the_likelihood_of_the_teachers_features_under_a_normal_distribution():
    method, expected = adapted("vid:weight=3", OURS, THEIRS), 0.0
    for part, (ours, theirs) in zip(method.parts, PAIRS, strict=True):
        first, second, third = (part.mean[index] for index in (0, 2, 4))
        mean = convolved(convolved(convolved(ours, first).clamp(min=0), second).clamp(min=0), third)
        values = []
        for channel in range(theirs.shape[1]):
            variance = math.log1p(math.exp(part.raw_variance[channel].item())) + 1e-5
            for t, m in zip(
                theirs[:, channel].flatten().tolist(), mean[:, channel].flatten().tolist(), strict=True
            ):
                density = math.exp(-((t - m) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
                values.append(-math.log(density) - math.log(2 * math.pi) / 2)
        expected += sum(values) / len(values)
    assert term(method, "information") == pytest.approx(3 * expected, rel=1e-4)


def test_the_variance_of_vid_begins_at_five():
    method = build_method("vid")
    method.adapt(OURS, THEIRS)
    raw = torch.cat([part.raw_variance for part in method.parts]).double()
    torch.testing.assert_close(raw.exp().add(1).log() + 1e-5, torch.full_like(raw, 5.0), rtol=1e-6, atol=1e-6)


def test_ofd_counts_where_the_teacher_is_active_or_the_student_above_its_margin():
    method, expected = adapted("ofd:weight=0.5", OURS, THEIRS), 0.0
    for index, (ours, theirs) in enumerate(BEFORE_RELU):
        ours, distance = connected(ours, method.connectors[index]), 0.0
        for channel in range(theirs.shape[1]):
            values = theirs[:, channel].flatten().tolist()
            negative = [value for value in values if value < 0]
            margin = sum(negative) / len(negative)
            for s, t in zip(ours[:, channel].flatten().tolist(), values, strict=True):
                target = max(t, margin)
                if target > 0 or s > target:
                    distance += (s - target) ** 2
        expected += distance / 8 / 2 ** (len(BEFORE_RELU) - 1 - index)
    assert term(method, "features") == pytest.approx(0.5 * expected, rel=1e-4)


def test_a_channel_that_is_never_negative_has_a_margin_of_zero():
    positive = each(THEIRS, torch.abs)
    method = adapted("ofd", OURS, positive)
    expected = sum(
        ((connected(ours, layers) - theirs.double().abs()) ** 2).sum().item() / 8 / 2 ** (2 - index)
        for index, (layers, (ours, theirs)) in enumerate(zip(method.connectors, BEFORE_RELU, strict=True))
    )
    value = method(OURS, positive, LABELS, END)["features"].item()
    assert value == pytest.approx(0.001 * expected, rel=1e-4)


def test_a_boundary_is_a_margin_on_the_teachers_side():
    method, expected = adapted("ab:weight=3,margin=0.5", OURS, THEIRS), 0.0
    for layers, (ours, theirs) in zip(method.connectors, BEFORE_RELU, strict=True):
        ours, values = connected(ours, layers).flatten().tolist(), theirs.flatten().tolist()
        wrong = [
            max(0.0, 0.5 - s) ** 2 if t > 0 else max(0.0, 0.5 + s) ** 2 for s, t in zip(ours, values, strict=True)
        ]
        expected += sum(wrong) / len(wrong) / 3
    assert term(method, "boundaries") == pytest.approx(3 * expected, rel=1e-5)


def test_factors_are_compared_with_norm_one_and_the_encoder_learns_from_rebuilding_alone():
    method = adapted("ft:weight=10,share=0.4", OURS, THEIRS)

    def layers(maps: Tensor, module) -> Tensor:
        for index in (0, 3):
            maps = connected(maps, module[index : index + 2])
            maps = torch.where(maps > 0, maps, 0.1 * maps)
        return maps

    ours, theirs = PAIRS[-1]
    factors, translated = layers(theirs, method.encoder), layers(ours, method.translator)
    assert factors.shape[1] == round(0.4 * TEACHER[-1])
    distances = [
        (a / a.norm() - b / b.norm()).abs().mean().item() for a, b in zip(factors, translated, strict=True)
    ]
    assert term(method, "factors") == pytest.approx(10 * sum(distances) / 8, rel=1e-5)
    expected = mean_square(layers(factors, method.decoder), theirs)
    assert term(method, "rebuilding") == pytest.approx(expected, rel=1e-5)

    method(OURS, THEIRS, LABELS, END)["factors"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.translator.parameters())
    assert all(p.grad is None for part in (method.encoder, method.decoder) for p in part.parameters())


def test_reviewkd_joins_each_stage_with_what_came_of_the_stages_behind_it():
    method, expected, behind = adapted("reviewkd:weight=2", OURS, THEIRS), 0.0, None
    for fuse, (ours, theirs) in zip(method.fusions, reversed(PAIRS), strict=True):
        maps = connected(ours, fuse.take)
        if behind is None:
            assert fuse.attention is None
        else:
            behind = behind.repeat_interleave(2, 2).repeat_interleave(2, 3)
            shares = 1 / (1 + (-convolved(torch.cat([maps, behind], 1), fuse.attention)).exp())
            maps = maps * shares[:, 0, None] + behind * shares[:, 1, None]
        behind, given = maps, connected(maps, fuse.give)
        loss, weight, total = mean_square(given, theirs), 1.0, 1.0
        for size in (level for level in (4, 2, 1) if level < theirs.shape[2]):
            weight, side = weight / 2, theirs.shape[2] // size
            pooled = (m.reshape(*m.shape[:2], size, side, size, side).mean((3, 5)) for m in (given, theirs))
            loss, total = loss + weight * mean_square(*pooled), total + weight
        expected += loss / total
    assert term(method, "review") == pytest.approx(2 * expected, rel=1e-4)


def test_the_warm_up_of_reviewkd_raises_its_own_term_alone():
    method = adapted("reviewkd:warmup=0.5", OURS, THEIRS)
    start, quarter, end = (method(OURS, THEIRS, LABELS, torch.tensor(part)) for part in (0.0, 0.25, 1.0))
    assert start["review"] == 0
    assert quarter["review"].item() == pytest.approx(end["review"].item() / 2)
    assert start["CE"] == end["CE"]


# Stages.


def test_stages_are_paired_by_resolution():
    student, teacher = features((3, 16, 16), (3, 8, 8)), features((4, 8, 8), (4, 4, 4))
    [(ours, theirs)] = pair_stages(student, teacher)
    assert ours is student.features[1]
    assert theirs is teacher.features[0]


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "fsp", "vid", "ofd", "ab", "ft", "reviewkd"])
def test_networks_without_a_common_resolution_are_refused_with_the_resolutions(name):
    student, teacher = (
        given._replace(preactivations=given.features)
        for given in (features((3, 16, 16), (3, 8, 8)), features((4, 4, 4)))
    )
    with pytest.raises(ValueError, match=r"no stage of the same resolution .*16x16, 8x8 .*4x4") as caught:
        build_method(name).adapt(student, teacher)
    assert "\n" not in str(caught.value)


def test_a_flow_of_one_stage_and_a_hint_of_a_stage_that_is_not_there_are_refused():
    student, teacher = features((3, 16, 16), (3, 8, 8)), features((4, 8, 8))
    with pytest.raises(ValueError, match="needs two stages"):
        build_method("fsp").adapt(student, teacher)
    for stage in (-2, 1):
        with pytest.raises(ValueError, match=f"stage {stage} is not one of the 1 that both networks have"):
            build_method(f"fitnet:stage={stage}").adapt(student, teacher)
