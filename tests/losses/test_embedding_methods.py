"""Each method on embeddings against its formula, written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from examples import END, LABELS, STUDENT, TEACHER, adapted, batch_normalised, each, outputs
from torch import Tensor

from utils.losses import Outputs
from utils.losses.method import Method

OURS, THEIRS = outputs(0, STUDENT), outputs(1, TEACHER)
DOUBLE = [each(given, lambda tensor: tensor.double()) for given in (OURS, THEIRS)]
S, T = (given.embedding for given in DOUBLE)  # [8, 6] and [8, 9]


def terms_of(method: Method) -> dict[str, float]:
    terms = method(OURS, THEIRS, LABELS, END)
    assert terms["CE"].item() == pytest.approx(F.cross_entropy(DOUBLE[0].logits, LABELS).item(), rel=1e-5)
    return {name: term.item() for name, term in terms.items()}


def huber(a: float, b: float) -> float:
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def projected(values: Tensor, layer: torch.nn.Linear) -> Tensor:
    result = torch.einsum("od,bd->bo", layer.weight.detach().double(), values)
    return result if layer.bias is None else result + layer.bias.detach().double()


def test_rkd_compares_distances_over_their_mean_and_angles_of_triplets():
    def distances(rows: Tensor) -> list[list[float]]:
        plain = [[math.dist(a, b) for b in rows.tolist()] for a in rows.tolist()]
        mean = sum(map(sum, plain)) / (8 * 7)
        return [[value / mean for value in row] for row in plain]

    def angle(rows: Tensor, corner: int, first: int, second: int) -> float:
        if corner in (first, second):
            return 0.0
        a, b = rows[first] - rows[corner], rows[second] - rows[corner]
        return float(a @ b / (a.norm() * b.norm()))

    ours, theirs, indices = distances(S), distances(T), range(8)
    terms = terms_of(adapted("rkd:distance=2,angle=3", OURS, THEIRS))
    expected = sum(huber(ours[i][j], theirs[i][j]) for i in indices for j in indices) / 8**2
    assert terms["distances"] == pytest.approx(2 * expected, rel=1e-5)
    triplets = [(i, j, k) for i in indices for j in indices for k in indices]
    expected = sum(huber(angle(S, *each), angle(T, *each)) for each in triplets) / 8**3
    assert terms["angles"] == pytest.approx(3 * expected, rel=1e-5)


def test_pkt_compares_the_probabilities_of_neighbours():
    def neighbours(rows: Tensor) -> list[list[float]]:
        cosines = [[float(a @ b / (a.norm() * b.norm())) / 2 + 0.5 for b in rows] for a in rows]
        return [[value / sum(row) for value in row] for row in cosines]

    ours, theirs = neighbours(S), neighbours(T)
    expected = sum(
        t * math.log((t + 1e-7) / (s + 1e-7))
        for a, b in zip(ours, theirs, strict=True)
        for s, t in zip(a, b, strict=True)
    )
    assert terms_of(adapted("pkt:weight=10", OURS, THEIRS))["neighbours"] == pytest.approx(
        10 * expected / 64, rel=1e-4
    )


def test_cc_multiplies_the_differences_of_neighbours_in_the_batch():
    method = adapted("cc:weight=3", OURS, THEIRS)
    difference = (projected(S, method.project) - T).abs().tolist()
    products = [sum(a * b for a, b in zip(difference[i], difference[i + 1], strict=True)) for i in range(7)]
    assert terms_of(method)["congruence"] == pytest.approx(3 * sum(products) / 7, rel=1e-5)


def test_srrl_compares_embeddings_and_the_logits_that_they_have_in_the_teachers_head():
    method = adapted("srrl:alpha=2,beta=3", OURS, THEIRS)
    ours = batch_normalised(projected(S, method.connect[0]), method.connect[1])
    weight, bias = (part.double() for part in THEIRS.head)
    logits = torch.einsum("cd,bd->bc", weight, ours) + bias
    terms = terms_of(method)
    assert terms["embedding"] == pytest.approx(2 * ((ours - T) ** 2).sum().item() / T.numel(), rel=1e-5)
    expected = ((logits - DOUBLE[1].logits) ** 2).sum().item() / logits.numel()
    assert terms["logits"] == pytest.approx(3 * expected, rel=1e-5)


def test_srrl_takes_a_head_without_a_bias_and_leaves_the_teachers_head_alone():
    head = THEIRS.head[0].clone().requires_grad_()
    method, teacher = adapted("srrl", OURS, THEIRS), THEIRS._replace(head=(head, None))
    ours = batch_normalised(projected(S, method.connect[0]), method.connect[1])
    expected = ((torch.einsum("cd,bd->bc", head.detach().double(), ours) - DOUBLE[1].logits) ** 2).mean().item()
    term = method(OURS, teacher, LABELS, END)["logits"]
    assert term.item() == pytest.approx(expected, rel=1e-5)
    term.backward()
    assert head.grad is None


@pytest.mark.parametrize("cosine", [True, False])
def test_embed_is_a_distance_after_a_trained_projection(cosine):
    method = adapted(f"embed:weight=3,cosine={cosine}", OURS, THEIRS)
    ours, expected = projected(S, method.project), 0.0
    for a, b in zip(ours.tolist(), T.tolist(), strict=True):
        products = sum(x * y for x, y in zip(a, b, strict=True))
        similarity = products / math.hypot(*a) / math.hypot(*b)
        expected += 1 - similarity if cosine else math.dist(a, b) ** 2 / len(b)
    assert terms_of(method)["embedding"] == pytest.approx(3 * expected / 8, rel=1e-5)


# CRD.


def directions(values: Tensor, layer: torch.nn.Linear) -> Tensor:
    """Projected, with norm 1, as a float64 graph of the layer's own weight and bias."""
    result = values @ layer.weight.double().T + layer.bias.double()
    return result / (result**2).sum(1, keepdim=True).sqrt()


def critic(anchor: Tensor, positive: Tensor, others: list[Tensor], tau: float) -> Tensor:
    """-log h of the positive minus the sum of log(1 - h) of the others."""
    if not others:
        return anchor.sum() * 0
    scores = [(anchor @ other / tau).exp() for other in others]
    level = sum(score.detach() for score in scores)  # their number times their mean
    own = (anchor @ positive / tau).exp()
    return -(own / (own + level)).log() - sum((1 - score / (score + level)).log() for score in scores)


def test_crd_contrasts_with_the_last_images_of_other_classes_and_remembers_them_as_a_queue():
    method = adapted("crd:weight=2,dim=4,memory=12,tau=0.5", OURS, THEIRS)
    queue: list[tuple[Tensor, Tensor, int]] = []
    for step in range(4):  # 32 images through a memory of 12
        ours, theirs = outputs(10 + step, STUDENT), outputs(20 + step, TEACHER)
        labels = torch.arange(step, step + 8) % 3
        s = directions(ours.embedding.double(), method.project_s)
        t = directions(theirs.embedding.double(), method.project_t)
        expected = s.sum() * 0
        for row, label in enumerate(labels.tolist()):
            others = [entry for entry in queue if entry[2] != label]
            expected = expected + critic(s[row], t[row], [entry[1] for entry in others], 0.5) / 8
            expected = expected + critic(t[row], s[row], [entry[0] for entry in others], 0.5) / 8
        value = method(ours, theirs, labels, END)["contrast"]
        assert value.item() == pytest.approx(2 * expected.item(), rel=1e-5)
        assert (value.item() == 0) == (step == 0)  # nothing is remembered yet
        parameters = list(method.parameters())
        gradients = torch.autograd.grad(value, parameters)
        for gradient, reference in zip(gradients, torch.autograd.grad(2 * expected, parameters), strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)
        queue = [*queue, *zip(s.detach(), t.detach(), labels.tolist(), strict=True)][-12:]


def test_a_batch_of_one_class_says_nothing_to_crd_beside_a_memory_of_it():
    method, labels = adapted("crd:memory=20", OURS, THEIRS), torch.zeros(8, dtype=torch.int64)
    for _ in range(3):
        assert method(OURS, THEIRS, labels, END)["contrast"].item() == 0


def test_crd_remembers_no_more_than_its_memory_of_a_larger_batch():
    method = adapted("crd:memory=5", OURS, THEIRS)
    first, second = (method(OURS, THEIRS, LABELS, END)["contrast"].item() for _ in range(2))
    assert first == 0 < second
    assert method.seen_labels.tolist() == LABELS[:5].tolist()


def test_methods_on_embeddings_take_those_of_the_cache_in_half_precision():
    half = Outputs(*(tensor.half() for tensor in THEIRS[:2]), head=THEIRS.head)
    for spec in ("rkd", "pkt", "cc", "crd", "srrl", "embed"):
        method = adapted(spec, OURS, THEIRS)
        for _ in range(2):
            terms = method(OURS, half, LABELS, END)
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
