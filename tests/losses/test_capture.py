"""A step with any method can be captured as a CUDA graph."""

import functools
from typing import Any

import pytest
import torch
from examples import END, LABELS, TEACHER, adapted, leaves, outputs
from torch.utils._python_dispatch import TorchDispatchMode

from utils.losses import METHODS

# Reading a number back, shapes that data decides, and tensors made from Python's numbers, which are then copied.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "equal", "bincount")


class NothingWaits(TorchDispatchMode):
    """Raises where on a CUDA device an operation would wait, or its result would have a shape of its own."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        name = function.__name__.split(".")[0].strip("_")
        assert not any(name.startswith(each.strip("_")) for each in WAITING), function
        if name in ("index", "index_put"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), function
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", METHODS)
def test_no_operation_of_a_step_waits_or_has_a_shape_that_data_decides(name):
    (student, _), teacher = leaves(outputs(0)), outputs(1, TEACHER)
    method = adapted(name, student, teacher)
    with NothingWaits():
        terms = method(student, teacher, LABELS, END)
        functools.reduce(torch.add, terms.values()).backward()


@pytest.mark.parametrize(
    "waits", [lambda t: t.sum().item(), lambda t: t[t > 0], lambda t: torch.tensor(1.0), lambda t: bool(t.any())]
)
def test_what_waits_is_noticed(waits):
    with pytest.raises(AssertionError), NothingWaits():
        waits(torch.randn(4))
