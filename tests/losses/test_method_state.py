"""What a method has learned or remembers is saved with a training, and a training goes on from it bit by bit."""

import pytest
import torch
from examples import END, LABELS, STUDENT, TEACHER, adapted, outputs, tiny
from toys import CPU, assert_same_weights, batches, frozen, weights

from utils.distillation.taps import TappedNetwork
from utils.losses import METHODS
from utils.runtime.files import read_tensors, write_tensors
from utils.training.loop import fit
from utils.training.state import Schedule, TrainState

OURS, THEIRS = outputs(0, STUDENT), outputs(1, TEACHER)
WITH_STATE = [name for name in METHODS if adapted(name, OURS, THEIRS).state_dict()]


def test_the_methods_with_a_state_are_those_that_train_something():
    expected = "ctkd fitnet cc fsp vid ofd ab ft reviewkd crd srrl embed"
    assert set(expected.split()) == {*WITH_STATE}


@pytest.mark.parametrize("name", WITH_STATE)
def test_the_state_of_a_method_makes_another_one_equal(name):
    first, second = (adapted(name, OURS, THEIRS, seed) for seed in (0, 1))
    for _ in range(2):
        first(OURS, THEIRS, LABELS, END)
    second.load_state_dict(first.state_dict())
    other = outputs(2, STUDENT)
    terms, expected = (method(other, THEIRS, LABELS, END) for method in (second, first))
    assert all(torch.equal(terms[term], expected[term]) for term in expected)


@pytest.mark.parametrize(
    ("name", "ema"), [*((name, 0.9) for name in WITH_STATE), ("crd", 0.0), ("reviewkd", 0.0), ("ctkd", 0.0)]
)
def test_a_resumed_training_ends_bit_identical(tmp_path, name, ema):
    train = batches(19, 8)  # two whole batches and one of three images in an epoch
    needs = adapted(name, OURS, THEIRS).needs
    teacher = frozen(tiny(TEACHER, seed=7), needs)

    def start(seed: int) -> TrainState:
        model, images = tiny(seed=seed), torch.zeros(2, 3, 32, 32)
        student = TappedNetwork(model, needs, images).example(images)
        method = adapted(spec, student, teacher.network.example(images), seed)
        return TrainState(model, Schedule(2, len(train), lr=0.01, ema=ema), method)

    spec = {"crd": "crd:memory=30", "ctkd": "ctkd:warmup=0.5"}.get(name, name)
    unbroken, broken = start(0), start(0)
    list(fit(unbroken, teacher, train, None, CPU))
    next(fit(broken, teacher, train, None, CPU))
    write_tensors(tmp_path / "last.pt", broken.state_dict() | {"model": broken.result.state_dict()})
    resumed, state = start(99), read_tensors(tmp_path / "last.pt")
    resumed.load_state_dict(state["model"], state)
    list(fit(resumed, teacher, train, None, CPU))
    for part in ("model", "result", "method"):
        assert_same_weights(weights(getattr(unbroken, part)), weights(getattr(resumed, part)))
    assert_same_weights(unbroken.state_dict()["method"], resumed.state_dict()["method"])
    assert any(not torch.equal(tensor, state["method"][key]) for key, tensor in weights(resumed.method).items())
