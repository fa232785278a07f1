import copy

import pytest
import torch
from toys import CPU, assert_same_weights, frozen, network, training, weights

from utils.runtime.errors import UserError
from utils.training.optimizer import build_optimizer, load_optimizer, make_lr_a_tensor, set_lr


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(images).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("lr_is_a_tensor", [False, True])
@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adamw", 0.9)])
def test_weights_decay_and_parameters_of_one_dimension_do_not(name, momentum, lr_is_a_tensor):
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer(name, [ours], 0.1, momentum, weight_decay=0.01)
    if lr_is_a_tensor:
        make_lr_a_tensor(optimizer, torch.device("cpu"))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        reference = torch.optim.SGD(groups, 0.1, momentum, nesterov=momentum > 0, fused=True)
    else:
        reference = torch.optim.AdamW(groups, 0.1, fused=True)
    for number in range(5):
        rates = [group["lr"] for group in optimizer.param_groups]
        set_lr(optimizer, 0.1 / (number + 1))
        for before, group in zip(rates, optimizer.param_groups, strict=True):
            assert (group["lr"] is before) is lr_is_a_tensor  # in place: a captured step reads it there
        for group in reference.param_groups:
            group["lr"] = 0.1 / (number + 1)
        step(ours, optimizer, number)
        step(theirs, reference, number)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if lr_is_a_tensor else 0, atol=1e-7 * lr_is_a_tensor)


def test_frozen_and_unused_parameters_stay():
    model = network()
    before = weights(model)
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer("sgd", [model], 0.1, 0.9, weight_decay=0.01)
    model[5](torch.ones(2, model[5].in_features)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[1].weight, before["1.weight"])
    assert not torch.equal(model[5].weight, before["5.weight"])


def test_the_momentum_of_the_earlier_format_goes_on_as_torchs_own_state():
    """In whatever order its values lie in memory: weights of convolutions are in channels_last."""
    model = CPU.place(network())
    optimizer = build_optimizer("sgd", [model], 0.1, 0.9, 0.01)
    for number in range(3):
        step(model, optimizer, number)
    momenta = {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    contiguous = {name: momentum.contiguous() for name, momentum in momenta.items()}
    results = []
    for state in (optimizer.state_dict(), momenta, contiguous):
        resumed = copy.deepcopy(model)
        other = build_optimizer("sgd", [resumed], 0.1, 0.9, 0.01)
        load_optimizer(other, copy.deepcopy(state), resumed)
        step(resumed, other, 3)
        results.append(weights(resumed))
    step(model, optimizer, 3)
    for each in results:
        assert_same_weights(each, weights(model))


def other_state() -> dict:
    """The optimizer of a network with as many parameters, of other shapes."""
    model = network(classes=5)
    optimizer = build_optimizer("sgd", [model], 0.1, 0.9, 0.01)
    step(model, optimizer, 0)
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"0.weight": torch.zeros(3)},
        {name: torch.zeros(7) for name, _ in network().named_parameters()},
        {name: 1 for name, _ in network().named_parameters()},
        {"state": {}, "param_groups": []},
        other_state(),
        training(method="fitnet:stage=0", teacher=frozen(network(), "features")).optimizer.state_dict(),
    ],
    ids=["nothing", "one", "shapes", "numbers", "no groups", "other network", "with parts of a method"],
)
def test_the_state_of_another_network_is_refused(state):
    model = network()
    with pytest.raises(UserError, match="does not fit"):
        load_optimizer(build_optimizer("sgd", [model], 0.1, 0.9, 0.0), state, model)
