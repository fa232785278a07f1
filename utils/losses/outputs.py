"""The outputs of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the names of methods and flags are read without torch
    from torch import Tensor


class Outputs(NamedTuple):
    """Outputs of a network for a batch of B images; the parts that nobody asked for are None."""

    logits: Tensor  # float [B, C]
    embedding: Tensor | None = None  # float [B, D], what the last linear layer takes
    features: tuple[Tensor, ...] | None = None  # float [B, c, h, w] for each stage, from the input on
    preactivations: tuple[Tensor, ...] | None = None  # the same before the ReLU that ends a stage, where one does
    head: tuple[Tensor, Tensor | None] | None = (
        None  # beside an embedding: the last layer's weight [C, D] and bias
    )
