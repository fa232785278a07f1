"""The training loop: one for the teacher, the student alone and the distilled student."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from utils.data.augment import View
from utils.data.batches import Batch, Batches
from utils.distillation.taps import TappedNetwork
from utils.evaluation.metrics import Meter, Metrics, evaluate
from utils.losses import Outputs
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.history import EpochRecord
from utils.training.cuda_graph import graphed
from utils.training.optimizer import set_lr
from utils.training.state import TrainState, floats

LOG_INTERVAL = 0.3  # seconds between two readings of the running loss; each waits for the device


class Teacher(Protocol):
    """Outputs for a batch of a view, wherever they come from."""

    def set_view(self, view: int) -> None:
        """Prepare for the batches of view number `view`."""

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs for the batch as the student sees it; waits for nothing."""


@dataclass(frozen=True)
class LoopOptions:
    """How to train, without an effect on what is learned."""

    eval_every: int = 1  # epochs from one validation to the next
    cuda_graph: bool = True
    compile: bool = False
    # Called a few times a second with the epoch (0, 1, ...), its finished steps, and the means so far.
    on_progress: Callable[[int, int, Metrics], None] = lambda epoch, step, metrics: None
    # Called after every step; may raise to end the training there.
    check_interrupt: Callable[[], None] = lambda: None


class Step:
    """One step of training, from the indices of its images to the new weights. It waits for nothing.

    `view` is set in each epoch: how the images are augmented.
    """

    def __init__(
        self, state: TrainState, teacher: Teacher | None, train: Batches, compute: Compute, options: LoopOptions
    ):
        self.state, self.teacher, self.train, self.compute = state, teacher, train, compute
        forward = torch.compile(state.model, dynamic=False) if options.compile else None
        needs, images = state.method.needs, None
        if needs not in ("labels", "logits"):
            images = next(train.epoch(0)).images
        self.student = TappedNetwork(state.model, needs, images, forward)
        self.meter = Meter(compute.device)
        self.view: View | None = None
        self.progress = torch.zeros((), device=compute.device)  # the share of all steps that is done

    def __call__(self, indices: Tensor) -> None:
        """Train on the images at `indices` (int64 [B])."""
        state, batch = self.state, self.train.serve(indices, self.view)
        teacher = self.teacher(batch) if self.teacher is not None else None
        with self.compute.autocast():
            student = self.student(batch.images)
        terms = state.method(student, teacher, batch.labels, self.progress)
        loss = functools.reduce(torch.add, terms.values())
        loss.backward()
        state.optimizer.step()
        # Keeping gradients until the next backward pass makes VGG19-BN 3 % faster on a CPU and takes 50 MB more.
        state.optimizer.zero_grad(set_to_none=True)
        if state.averaged:
            state.update_average()
        self.meter.update(loss.detach(), student.logits, batch.labels)


def fit(
    state: TrainState,
    teacher: Teacher | None,
    train: Batches,
    val: Batches | None,
    compute: Compute,
    options: LoopOptions | None = None,
) -> Iterator[EpochRecord]:
    """Train until `schedule.epochs` are finished; yield each epoch's record when all of it is in `state`.

    `val` is measured after every `eval_every` epochs and after the last one. Raises UserError when the loss is no
    longer finite.
    """
    options = options or LoopOptions()
    step = Step(state, teacher, train, compute, options)
    run = graphed(step) if options.cuda_graph else step
    epochs = state.schedule.epochs
    for epoch in range(state.epoch, epochs):
        view = train.view_number(epoch)
        run.view = train.view(view)
        if teacher is not None:
            teacher.set_view(view)
        started = time.perf_counter()  # not before: to make the teacher's outputs must not seem a part of training
        metrics = _train_epoch(epoch, step, run, options)
        seconds = time.perf_counter() - started
        measured = Metrics(None, None, None)
        if val is not None and ((epoch + 1) % options.eval_every == 0 or epoch + 1 == epochs):
            measured = evaluate(state.result, val, compute)
            _require_finite(measured.loss, epoch, state)
        lr = state.schedule.lr_at(state.steps - 1)
        state.history.append(EpochRecord(epoch + 1, lr, *metrics, *measured, seconds))
        yield state.history[-1]


def _train_epoch(epoch: int, step: Step, run: Callable[[Tensor], None], options: LoopOptions) -> Metrics:
    """Train an epoch with `run`, which is `step` itself or a replay of it."""
    state, meter = step.state, step.meter
    state.model.train()
    meter.reset()
    next_log = time.perf_counter() + LOG_INTERVAL
    for number, indices in enumerate(step.train.order(epoch)):
        set_lr(state.optimizer, state.schedule.lr_at(state.steps))
        step.progress.fill_(state.steps / state.schedule.steps)
        run(indices)
        state.steps += 1
        options.check_interrupt()
        if time.perf_counter() >= next_log:
            metrics = meter.read()
            _require_finite(metrics.loss, epoch, state)
            options.on_progress(epoch, number + 1, metrics)
            next_log = time.perf_counter() + LOG_INTERVAL
    # A step can break weights or statistics after its own loss was fine; a sum of norms finds any such value.
    norms = torch.stack(torch._foreach_norm(floats(state.result)))
    metrics = meter.read()
    _require_finite(metrics.loss + norms.sum().item(), epoch, state)
    return metrics


def _require_finite(value: float, epoch: int, state: TrainState) -> None:
    if not math.isfinite(value):
        hint = f"try a --lr below {state.schedule.lr:g}" + ", with --overwrite" * (state.epoch > 0)
        raise UserError(f"the loss is no longer finite in epoch {epoch + 1}", hint)
