"""What TensorBoard shows of a training. It is measured beside the training, which is the same without it."""

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from utils.data.batches import Batches
from utils.distillation.taps import TappedNetwork
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.history import EpochRecord
from utils.training.loop import Teacher
from utils.training.state import TrainState

IMAGES = 64  # augmented ones that are logged


def require_tensorboard() -> None:
    """Raise UserError where the extra package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboard", "pip install tensorboard") from error


class TensorBoardLogger:
    """Writes scalars after each epoch, and once what the augmented images look like."""

    def __init__(self, folder: Path, state: TrainState, train: Batches, compute: Compute, teacher: Teacher | None):
        from torch.utils.tensorboard import SummaryWriter

        self.state, self.train, self.compute, self.teacher = state, train, compute, teacher
        # What an earlier process wrote of later epochs is hidden: this one will write them again.
        self.writer = SummaryWriter(str(folder), purge_step=state.epoch + 1)

    def __enter__(self) -> "TensorBoardLogger":
        return self

    def __exit__(self, *_exception) -> None:
        self.writer.close()

    def epoch_done(self, record: EpochRecord) -> None:
        """Write the metrics of an epoch, and the terms of the objective on its first batch."""
        for name, value in asdict(record).items():
            part, _, metric = name.partition("_")
            if value is not None and name != "epoch":
                self.writer.add_scalar(f"{metric}/{part}" if metric else name, value, record.epoch)
        for name, (value, norm) in self.terms(record.epoch - 1).items():
            self.writer.add_scalar(f"weighted terms, first batch/{name}", value, record.epoch)
            self.writer.add_scalar(f"gradient norm of weighted terms, first batch/{name}", norm, record.epoch)
        if record.epoch == 1:
            self.writer.add_images("augmented images", self._images(), 1)
        self.writer.flush()

    def terms(self, epoch: int) -> dict[str, tuple[float, float]]:
        """Each weighted term of the objective, and the 2-norm of its gradient, on the first batch of `epoch`.

        Computed with a copy of the network as it is now: batch norm in training mode moves its statistics. The
        teacher is at the view of that epoch already.
        """
        state, network = self.state, copy.deepcopy(self.state.model).train()
        batch = self.train.serve(self.train.order(epoch)[0], self.train.view(self.train.view_number(epoch)))
        teacher = self.teacher(batch) if self.teacher is not None else None
        with self.compute.autocast():
            student = TappedNetwork(network, state.method.needs, batch.images)(batch.images)
        progress = torch.tensor(state.steps / state.schedule.steps, device=self.compute.device)
        terms, parameters = {}, list(network.parameters())
        method = copy.deepcopy(state.method)  # it may remember what it has seen
        for name, term in method(student, teacher, batch.labels, progress).items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            norms = [gradient.norm() for gradient in gradients if gradient is not None]
            terms[name] = term.item(), torch.stack(norms).norm().item() if norms else 0.0
        return terms

    def _images(self) -> Tensor:
        """Images of the first batch as the network sees them, float32 [B, 3, H, W] from 0 to 1."""
        batch = self.train.serve(self.train.order(0)[0][:IMAGES], self.train.view(0))
        mean, std = (
            torch.tensor(values, device=self.train.device)[:, None, None]
            for values in (self.train.normalise.mean, self.train.normalise.std)
        )
        return ((batch.images * std + mean) / 255).clamp(0, 1)
