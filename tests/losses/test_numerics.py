"""What breaks other implementations, for all methods: extreme and equal values, half precision, small batches."""

import functools

import pytest
import torch
from examples import (
    BEYOND_LOGITS,
    END,
    LABELS,
    NEEDS,
    ON_LOGITS,
    STUDENT,
    TEACHER,
    adapted,
    each,
    leaves,
    logits,
    outputs,
    tiny,
)
from torch import Tensor
from toys import frozen

from utils.data.batches import Batch
from utils.distillation.taps import TappedNetwork
from utils.losses import METHODS, Outputs, build_method
from utils.losses.rkd import relative_distances

COMPARING = [name for name in METHODS if build_method(name).compares_samples]


def sum_of(terms: dict[str, Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms.values())


def zeros_in(tensor: Tensor) -> Tensor:
    """The first two images, and the first channel or number of all, are 0: a ReLU makes such."""
    return tensor * (torch.arange(len(tensor)) > 1).view(-1, *[1] * (tensor.ndim - 1)) * _but_the_first(tensor)


def _but_the_first(tensor: Tensor) -> Tensor:
    return (torch.arange(tensor.shape[1]) > 0).view(1, -1, *[1] * (tensor.ndim - 2))


CASES = {
    "extreme": (lambda t: t * 1000, lambda t: t * 1000),  # log(softmax) of these is log(0)
    "opposite": (lambda t: t * 1000, lambda t: t * -1000),
    "tiny": (lambda t: t * 1e-20, lambda t: t * 1e-20),
    "zero": (torch.zeros_like, torch.zeros_like),
    "zero student": (torch.zeros_like, lambda t: t),
    "zero teacher": (lambda t: t, torch.zeros_like),
    "equal rows": (lambda t: t[:1].expand_as(t), lambda t: t[:1].expand_as(t)),
    "equal rows of the student": (lambda t: t[:1].expand_as(t), lambda t: t),
    "rows of zeros": (zeros_in, lambda t: t),
    "extreme half": (lambda t: t.half() * 1000, lambda t: t.half() * 1000),
    "mixed halves": (lambda t: t.bfloat16(), lambda t: t.half()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", METHODS)
def test_value_and_gradients_stay_finite_in_float32(name, case):
    ours, theirs = (
        each(outputs(i, c), f) for i, c, f in zip((0, 1), (STUDENT, TEACHER), CASES[case], strict=True)
    )
    method = adapted(name, ours, theirs)
    student, tensors = leaves(ours)
    for step in range(2):  # CRD has nothing to compare with in the first
        loss = sum_of(method(student, theirs, (LABELS + step) % 10, END))
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        loss.backward()
    tensors = [*tensors, *method.parameters()]
    assert all(tensor.grad.isfinite().all() for tensor in tensors if tensor.grad is not None)


@pytest.mark.parametrize("name", BEYOND_LOGITS)
def test_rows_and_channels_of_zeros_do_not_blow_a_gradient_up(name):
    """Vectors of norm 0 have no direction: with the usual 1e-12 beside the norm, their gradient is 1e12 times."""
    largest = []
    for change in (lambda tensor: tensor, zeros_in):
        student, tensors = leaves(each(outputs(0), change))
        method = adapted(name, student, outputs(1, TEACHER))
        sum_of(method(student, outputs(1, TEACHER), LABELS, END)).backward()
        largest.append(max(tensor.grad.abs().max().item() for tensor in tensors if tensor.grad is not None))
    assert largest[1] < 100 * largest[0]


def test_equal_embeddings_have_a_distance_of_zero_and_no_gradient():
    rows = (torch.randn(1, 64) * 30).expand(8, 64).clone().requires_grad_()
    distances = relative_distances(rows)
    distances.sum().backward()
    assert distances.abs().sum() == rows.grad.abs().sum() == 0


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_gives_what_the_same_values_give_in_float32(name):
    ours, theirs = (each(outputs(i, c), Tensor.half) for i, c in ((0, STUDENT), (1, TEACHER)))
    values = [
        adapted(name, *given)(*given, LABELS, END)
        for given in ((ours, theirs), [each(outputs, Tensor.float) for outputs in (ours, theirs)])
    ]
    assert all(torch.equal(values[0][term], values[1][term]) for term in values[1])


@pytest.mark.parametrize("name", METHODS)
def test_two_classes_are_enough(name):
    ours, theirs = outputs(0, STUDENT, classes=2), outputs(1, TEACHER, classes=2)
    student, _ = leaves(ours)
    sum_of(adapted(name, ours, theirs)(student, theirs, LABELS % 2, END)).backward()
    assert student.logits.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_last_batch_may_be_smaller(name):
    ours, theirs = outputs(0), outputs(1, TEACHER)
    method = adapted(name, ours, theirs)
    method(ours, theirs, LABELS, END)
    few = [each(given, lambda tensor: tensor[:2]) for given in (ours, theirs)]
    assert sum_of(method(*few, LABELS[:2], END)).isfinite()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in COMPARING])
def test_a_batch_of_one_is_enough_where_samples_are_not_compared(name):
    ours, theirs = (outputs(i, c, rows=1) for i, c in ((0, STUDENT), (1, TEACHER)))
    student, _ = leaves(ours)
    loss = sum_of(adapted(name, ours, theirs)(student, theirs, LABELS[:1], END))
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", [{"wkd": "wkd:epsilon=1"}.get(name, name) for name in ON_LOGITS])
def test_the_gradient_of_logits_passes_gradcheck(name):
    student, teacher = logits(2, 4, 4, torch.float64).requires_grad_(), logits(3, 4, 4, torch.float64)

    def loss(values: Tensor) -> Tensor:
        return sum_of(build_method(name)(Outputs(values), Outputs(teacher), LABELS[:4], END))

    assert torch.autograd.gradcheck(loss, student)


ZERO_AT_THE_TEACHER = [
    *("kd", "kd:standardize", "dkd", "dist", "ttm:gamma=1", "wttm:gamma=1", "abkd", "wkd:epsilon=0.2"),
    *("ctkd", "mse", "mlkd"),
    *("at", "sp", "nst", "fsp", "rkd", "pkt"),
]


@pytest.mark.parametrize("name", ZERO_AT_THE_TEACHER)
def test_a_student_that_equals_its_teacher_has_only_its_cross_entropy(name):
    teacher = outputs(4)
    student, tensors = leaves(teacher)
    terms = build_method(name)
    terms.adapt(student, teacher)
    terms = {key: value for key, value in terms(student, teacher, LABELS, END).items() if key != "CE"}
    assert sum_of(terms).item() == pytest.approx(0, abs=1e-4)
    sum_of(terms).backward()
    assert max(tensor.grad.abs().max().item() for tensor in tensors if tensor.grad is not None) < 1e-3


@pytest.mark.parametrize("name", ["kd", "kd:standardize", "dkd", "dist", "ttm:gamma=1", "wkd", "rld", "abkd"])
def test_a_constant_added_to_all_logits_of_an_image_changes_nothing(name):
    given = [[Outputs(logits(0)), Outputs(logits(1))], [Outputs(logits(0) + 7), Outputs(logits(1) - 3)]]
    first, second = (build_method(name)(*pair, LABELS, END) for pair in given)
    assert all(first[term].item() == pytest.approx(second[term].item(), rel=1e-3, abs=1e-5) for term in first)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_all_of_the_student_and_the_adapters_and_nothing_of_the_teacher(name):
    """Through the taps of real networks; the teacher's weights would take a gradient."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    student, network = tiny(), tiny(TEACHER, seed=1)
    ours, teacher = TappedNetwork(student, NEEDS[name], images), frozen(network, NEEDS[name])
    network.requires_grad_()
    method = adapted(name, ours.example(images), teacher.network.example(images))
    batch = Batch(images, LABELS % 4, torch.arange(8))
    for _ in range(2):
        outputs_of_teacher = teacher(batch)
        assert not outputs_of_teacher.logits.requires_grad
        sum_of(method(ours(images), outputs_of_teacher, batch.labels, END)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in method.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
