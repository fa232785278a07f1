"""torch's optimizers, set up for training by CUDA graph: no weight decay on what is not a weight."""

from typing import Any

import torch
from torch import Tensor, nn

from utils.runtime.errors import UserError


def build_optimizer(name: str, modules: list[nn.Module], lr: float, momentum: float, weight_decay: float):
    """`torch.optim.SGD` with Nesterov momentum, or `torch.optim.AdamW`, fused where it can be.

    Weights decay; batch norm's scales and all biases (parameters of one dimension) do not.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    devices = {p.device.type for p in parameters}
    fused = devices <= {"cpu", "cuda"} and all(p.is_floating_point() for p in parameters)
    if name == "adamw":
        return torch.optim.AdamW(
            groups, lr, weight_decay=weight_decay, fused=fused, capturable=devices == {"cuda"}
        )
    return torch.optim.SGD(groups, lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step; where it is a tensor, in place and without waiting for it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def make_lr_a_tensor(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rate on the device, where a captured step reads it."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], model: nn.Module) -> None:
    """Take over the state of an earlier process. Raises UserError where it belongs to another network."""
    if "param_groups" not in state:  # before: the momentum of SGD, by the names of the parameters of `model`
        names = {parameter: name for name, parameter in model.named_parameters()}
        own = optimizer.state_dict()
        ordered = [names[p] for group in optimizer.param_groups for p in group["params"]]
        if set(state) != set(ordered):
            raise UserError("the optimizer state in the checkpoint does not fit the network")
        state = own | {"state": {i: {"momentum_buffer": state[name]} for i, name in enumerate(ordered)}}
    sizes, own_sizes = (
        [len(g["params"]) for g in groups] for groups in (state["param_groups"], optimizer.param_groups)
    )
    fits = sizes == own_sizes
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for buffer in state["state"].get(index, {}).values():  # a count of steps has no dimension
            fits &= isinstance(buffer, Tensor) and (buffer.ndim == 0 or buffer.shape == parameter.shape)
    if not fits:
        raise UserError("the optimizer state in the checkpoint does not fit the network")
    groups = optimizer.state_dict()["param_groups"]  # this run's own: of the file, only what training changed
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    for parameter, buffers in optimizer.state.items():  # fused kernels read both in the order of their memory
        buffers |= {name: torch.empty_like(parameter).copy_(b) for name, b in buffers.items() if b.ndim}
