"""What TensorBoard shows of a training. It is measured beside the training, which is the same without it."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from utils.data.batches import Batch, Batches
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.run_dir import EpochRecord
from utils.training.loop import TrainState

IMAGES = 64  # augmented ones that are shown


def require_tensorboard() -> None:
    """Raise UserError where the extra package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboard", "pip install tensorboard") from error


class TensorBoardLogger:
    """Writes scalars after each epoch, and once what the augmented images look like."""

    def __init__(
        self,
        folder: Path,
        training: TrainState,
        objective: Callable[..., Tensor],
        train: Batches,
        compute: Compute,
        teacher: Callable[[Batch], Tensor] | None,
        answers: Callable[[int], Tensor] | None,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.training, self.objective, self.train, self.compute = training, objective, train, compute
        self.teacher, self.answers = teacher, answers
        # What an earlier process wrote of later epochs is hidden: this one will write them again.
        self.writer = SummaryWriter(str(folder), purge_step=training.epoch + 1)

    def __enter__(self) -> "TensorBoardLogger":
        return self

    def __exit__(self, *_exception) -> None:
        self.writer.close()

    def epoch_done(self, record: EpochRecord) -> None:
        """Write the figures of an epoch, and the terms of the objective on its first batch."""
        for name, value in asdict(record).items():
            part, _, figure = name.partition("_")
            if value is not None and name != "epoch":
                self.writer.add_scalar(f"{figure}/{part}" if figure else name, value, record.epoch)
        for name, (value, norm) in self.terms(record.epoch - 1).items():
            self.writer.add_scalar(f"weighted terms, first batch/{name}", value, record.epoch)
            self.writer.add_scalar(f"gradient norm of weighted terms, first batch/{name}", norm, record.epoch)
        if record.epoch == 1:
            self.writer.add_images("augmented images", self._images(), 1)
        self.writer.flush()

    def terms(self, epoch: int) -> dict[str, tuple[float, float]]:
        """Each weighted term of the objective, and the 2-norm of its gradient, on the first batch of `epoch`.

        Computed with a copy of the network as it is now: batch norm in training mode moves its statistics.
        """
        network = copy.deepcopy(self.training.model).train()
        number = self.train.view_number(epoch)
        batch = self.train.serve(self.train.order(epoch)[0], self.train.view(number))
        teacher_logits = None
        if self.answers is not None:
            teacher_logits = self.answers(number)[batch.indices]
        elif self.teacher is not None:
            teacher_logits = self.teacher(batch)
        with self.compute.autocast():
            logits = network(batch.images)
        found, parameters = {}, list(network.parameters())
        for name, term in self.objective.terms(logits, teacher_logits, batch.labels).items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True)
            found[name] = term.item(), torch.stack([g.norm() for g in gradients]).norm().item()
        return found

    def _images(self) -> Tensor:
        """Images of the first batch as the network sees them, float32 [B, 3, H, W] from 0 to 1."""
        batch = self.train.serve(self.train.order(0)[0][:IMAGES], self.train.view(0))
        mean, std = (
            torch.tensor(values, device=self.train.device)[:, None, None]
            for values in (self.train.normalise.mean, self.train.normalise.std)
        )
        return ((batch.images * std + mean) / 255).clamp(0, 1)
