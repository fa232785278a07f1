"""Feature taps: how any network returns more than its logits."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.losses import Outputs

EXAMPLES = 2  # images that a network runs on to find its stages


class Tap(NamedTuple):
    """What a module gives in its n-th call (0, 1, ...) of a forward pass, or takes: it may be used many times."""

    module: str
    call: int
    input: bool = False


class TappedNetwork:
    """A network that returns `Outputs`. Its modules are hooked while it does, and only where that is needed.

    `forward` may be another form of `model`, such as a compiled one. Raises ValueError for a network that has no
    feature maps or no linear last layer where these are needed.
    """

    def __init__(
        self, model: nn.Module, needs: str, images: Tensor, forward: Callable[[Tensor], Tensor] | None = None
    ):
        self.model, self.needs, self.forward = model, needs, model if forward is None else forward
        wanted = needs.split("+")
        self.stages = find_stages(model, images) if "features" in wanted else []
        self.before = find_preactivations(model, images) if "preactivations" in wanted else []
        self.head = find_head(model, images) if "embedding" in wanted else None

    def __call__(self, images: Tensor) -> Outputs:
        """Outputs for normalised images, float [B, 3, H, W]."""
        taps = {*self.stages, *self.before, *([self.head] if self.head else [])}
        if not taps:
            return Outputs(self.forward(images))
        captured: dict[Tap, Tensor] = {}
        with ExitStack() as hooks:
            for tap in taps:
                hooks.callback(self._hook(tap, captured).remove)
            logits = self.forward(images)
        features, preactivations = (
            tuple(captured[tap] for tap in taps) or None for taps in (self.stages, self.before)
        )
        embedding = captured[self.head] if self.head else None
        return Outputs(logits, embedding, features, preactivations, self.head_weights)

    @property
    def head_weights(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [C, D] and bias [C] of the layer that takes the embedding."""
        if self.head is None:
            return None
        linear = self.model.get_submodule(self.head.module)
        return linear.weight, linear.bias

    def _hook(self, tap: Tap, captured: dict[Tap, Tensor]):
        calls = 0

        def record(module: nn.Module, taken: tuple[Tensor, ...], given: Tensor | None = None) -> None:
            nonlocal calls
            if calls == tap.call:
                tensor = taken[0] if tap.input else given
                # An in-place ReLU would change what it takes after it was captured.
                captured[tap] = tensor.clone() if tap.input and getattr(module, "inplace", False) else tensor
            calls += 1

        module = self.model.get_submodule(tap.module)
        return module.register_forward_pre_hook(record) if tap.input else module.register_forward_hook(record)

    @torch.no_grad()
    def example(self, images: Tensor) -> Outputs:
        """Outputs in eval mode, of which only the shapes matter; the mode of the network is left as it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            return self(images[:EXAMPLES])
        finally:
            self.model.train(was_training)


def find_stages(model: nn.Module, images: Tensor) -> list[Tap]:
    """The last module at each resolution above one pixel, from the input on.

    One inside a block (all but a `Sequential`) that takes that resolution and gives another is a stage only where
    no other module is: the first layers of such a block have its own channels, and not those of the stage before.
    """
    return [tap for tap, _given in _last_calls(model, images)]


def find_preactivations(model: nn.Module, images: Tensor) -> list[Tap]:
    """As `find_stages`, but what the ReLU takes whose output a stage is, where it ends with one."""
    relus = [(tap, given) for tap, module, _taken, given in _calls(model, images) if isinstance(module, nn.ReLU)]
    taps = []
    for tap, given in _last_calls(model, images):
        own = [relu for relu, output in relus if output.shape == given.shape and torch.equal(output, given)]
        taps.append(own[-1]._replace(input=True) if own else tap)
    return taps


def find_head(model: nn.Module, images: Tensor) -> Tap:
    """What the linear layer that gives the logits takes."""
    calls = _calls(model, images)
    linear = [tap for tap, module, _taken, _given in calls if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear last layer, so no embedding")
    return linear[-1]._replace(input=True)


def _last_calls(model: nn.Module, images: Tensor) -> list[tuple[Tap, Tensor]]:
    calls = _calls(model, images)
    leaving = {
        (tap.module, _size(taken))
        for tap, module, taken, given in calls
        if not isinstance(module, nn.Sequential) and _size(taken) != _size((given,))
    }
    last: dict[torch.Size, tuple[Tap, Tensor]] = {}
    last_inside: dict[torch.Size, tuple[Tap, Tensor]] = {}
    for tap, _module, _taken, given in calls:
        size = _size((given,))
        if size is not None and size.numel() > 1:
            parents = itertools.accumulate(tap.module.split(".")[:-1], "{}.{}".format)
            is_inside = any((parent, size) in leaving for parent in parents)
            (last_inside if is_inside else last)[size] = tap, given
    stages = {tap: given for tap, given in (last_inside | last).values()}
    if not stages:
        raise ValueError(f"{type(model).__name__} has no feature maps [B, c, h, w]")
    return [(tap, stages[tap]) for tap, *_ in calls if tap in stages]


def _size(tensors: tuple) -> torch.Size | None:
    """The resolution of the first of a module's inputs or outputs, if that is a feature map."""
    first = tensors[0] if tensors else None
    return first.shape[2:] if isinstance(first, Tensor) and first.ndim == 4 else None


@torch.no_grad()
def _calls(model: nn.Module, images: Tensor) -> list[tuple[Tap, nn.Module, tuple, Tensor]]:
    """Every call of a module in a forward pass in eval mode, in the order in which they end."""
    calls: list[tuple[Tap, nn.Module, tuple, Tensor]] = []
    count: dict[str, int] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, taken: tuple, given: Tensor) -> None:
            calls.append((Tap(name, count.get(name, 0)), module, taken, given))
            count[name] = count.get(name, 0) + 1

        return record

    with ExitStack() as after:
        after.callback(model.train, model.training)
        for name, module in model.named_modules():
            if name:
                after.callback(module.register_forward_hook(recorder(name)).remove)
        model.eval()(images[:EXAMPLES])
    return calls
