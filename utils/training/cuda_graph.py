"""A step of training captured as one CUDA graph: the host gives one order a step instead of hundreds."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.training.optimizer import make_lr_a_tensor

WARM_UP = 3  # steps before the capture: kernels are chosen and workspaces made in them


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """Record what `work` does on the CUDA device, without doing it; returns what does it."""
    graph = torch.cuda.CUDAGraph()
    # The outer stream comes back whatever happens: some versions of torch leave the capture's after a failure.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        work()
    return graph.replay


@functools.cache  # each stream has a workspace of its own for matrix products
def side_stream(_device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream()


def on_side_stream(work: Callable[[], None]) -> None:
    """Do `work` on a CUDA stream of its own: what is before a capture must not be bound to the usual one."""
    stream = side_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


class GraphedStep:
    """Runs a `utils.training.loop.Step`, replaying it as one CUDA graph where that can be captured.

    A graph reads and writes where it did when it was captured. So the indices of a batch, the learning rate and
    the view of an epoch are copied into tensors that stay. The first steps of a training and a smaller last batch
    run as they are: they are the warm-up that a capture needs, and nothing has to be undone after it.
    """

    broken = False  # after a capture that failed, torch's allocator may refuse another in the same process

    def __init__(self, step: Any):
        self.step = step
        self.indices: Tensor | None = None  # of a whole batch, int64 [B]
        self.replay: Callable[[], None] | None = None
        self.warm_up_left = WARM_UP
        make_lr_a_tensor(step.state.optimizer, step.compute.device)

    @property
    def view(self) -> Any:
        return self.step.view

    @view.setter
    def view(self, view: Any) -> None:
        """Copy the view of an epoch over that of the epoch before it."""
        if self.step.view is None:
            self.step.view = view
            return
        for static, new in zip(self.step.view, view, strict=True):
            static.copy_(new)

    def __call__(self, indices: Tensor) -> None:
        if len(indices) != self.step.train.batch_size or self.broken:
            self.step(indices)
        elif self.warm_up_left:
            self.warm_up_left -= 1
            on_side_stream(lambda: self.step(indices))
        elif self.replay is None and not self._captured(indices):
            self.step(indices)
        else:
            self.indices.copy_(indices)
            self.replay()

    def _captured(self, indices: Tensor) -> bool:
        self.indices = indices.clone()
        try:
            self.replay = capture(lambda: self.step(self.indices))
        except RuntimeError as error:
            GraphedStep.broken = True
            self.step.state.optimizer.zero_grad(set_to_none=True)  # of half a step
            reason = " ".join(str(error.__context__ or error).split())[:120]  # the context is the first error
            print(f"note: no CUDA graph, steps run one kernel at a time ({reason})", file=sys.stderr)
        return not self.broken


def graphed(step: Any) -> Any:
    """`step` as a graph where its device has graphs, else itself."""
    return GraphedStep(step) if step.compute.device.type == "cuda" and not GraphedStep.broken else step
