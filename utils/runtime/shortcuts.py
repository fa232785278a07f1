"""Shortcuts without weights (zero padding, option A of He et al., 2016) as convolutions that copy."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from utils.runtime.layer_matching import Layer, bare, match_by_name

# Of a batch norm that changes nothing; it adds 1e-5 to the variance.
NEUTRAL = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1 - 1e-5}


def shortcuts_without_weights(own: list[Layer], theirs: list[Layer]) -> list[Layer]:
    """The network's layers that are copies in the file: 1x1 convolutions to more channels and their batch norms.

    Empty where the file has any of them, and where the rest does not fit by name. The head is left aside: one of
    other classes is reported as such.
    """
    copies = [layer for conv, norm in pairwise(own) if _can_copy(conv, norm) for layer in (conv, norm)]
    names = {bare(layer.name) for layer in theirs}
    if not copies or any(bare(layer.name) in names for layer in copies):
        return []
    rest = [layer for layer in own if layer not in copies and not layer.is_linear]
    return copies if match_by_name(rest, [layer for layer in theirs if not layer.is_linear]) else []


def _can_copy(conv: Layer, norm: Layer) -> bool:
    widens = conv.shapes.keys() == {"weight"} and conv.weight[2:] == (1, 1) and conv.weight[0] > conv.weight[1]
    return widens and conv.precedes_norm(norm) and norm.shapes.keys() == NEUTRAL.keys()


def copying_weights(layers: list[Layer], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of such layers, of the types in `expected`, that copy the channels between zeros on either side."""
    weights = {}
    for layer in layers:
        for leaf, shape in layer.shapes.items():
            if layer.is_convolution:
                copied = torch.eye(*shape[:2], dtype=torch.float64).roll((shape[0] - shape[1]) // 2, 0)
                tensor = copied[..., None, None]
            else:
                tensor = torch.full(shape, NEUTRAL[leaf], dtype=torch.float64)
            name = f"{layer.name}.{leaf}"
            weights[name] = tensor.to(getattr(expected[name], "dtype", torch.float32))
    return weights
