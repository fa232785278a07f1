"""SGD beside torch's own class, and what it must not import."""

import copy

import pytest
import torch
from toys import network

from utils.runtime.errors import UserError
from utils.training.optimizer import SGD


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_five_steps_are_those_of_torch_to_the_last_bit(momentum):
    """Two-dimensional weights decay, batch norm's scales and biases do not."""
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizer = SGD(ours, 0.1, momentum, weight_decay=0.01)
    groups = [{"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.01}]
    groups.append({"params": [p for p in theirs.parameters() if p.ndim <= 1]})
    reference = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=momentum > 0, fused=True)
    for step in range(5):
        images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.set_lr(0.1 / (step + 1))
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for model, moves in ((ours, optimizer), (theirs, reference)):
            model(images).square().sum().backward()
            moves.step()
        reference.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is None


def test_frozen_and_unused_parameters_stay():
    model = network()
    frozen, unused = (copy.deepcopy(model[index].weight.detach()) for index in (0, 1))
    model[0].weight.requires_grad_(False)
    optimizer = SGD(model, 0.1, 0.9, weight_decay=0.01)
    model[5](torch.ones(2, model[5].in_features)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model[1].weight, unused)


@pytest.mark.parametrize(
    "state", [{}, {"0.weight": torch.zeros(3)}, {"state": {}, "param_groups": []}, {"0.weight": 1}]
)
def test_the_state_of_another_network_is_refused(state):
    with pytest.raises(UserError, match="does not fit"):
        SGD(network(), 0.1, 0.9, 0.0).load_state_dict(state)


def test_training_does_not_import_the_compiler(command, tmp_path):
    """torch.optim's classes do, which took 0.8 s and 150 MB at each start."""
    flags = (
        "--all --dataset shapes --limit 100 --student cnn_tiny --teacher cnn_tiny --epochs 1 --results-dir".split()
    )
    code = (
        "import sys, train\n"
        f"assert train.run(train.main, {[*flags, str(tmp_path)]}) == 0\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    command("-c", code)
