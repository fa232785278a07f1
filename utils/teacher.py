"""The frozen teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.checkpoint import load_checkpoint, restore_network
from utils.data.batches import Batch, Normalise
from utils.data.dataset import Dataset
from utils.device import Compute
from utils.errors import UserError


@dataclass(frozen=True)
class Teacher:
    """Answers for the batches that a student is trained on; never changes."""

    model: nn.Module
    compute: Compute
    name: str
    sha256: str  # of its weights
    description: str
    rescale: tuple[Tensor, Tensor] | None  # from the student's normalisation to its own, where they differ

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Logits [B, C] for the batch as the student sees it: same crop, same flip."""
        images = batch.images
        if self.rescale is not None:
            shift, scale = self.rescale
            images = torch.addcmul(shift, images, scale)
        with self.compute.autocast():
            return self.model(images)


def load_teacher(
    path: Path, dataset: Dataset, compute: Compute, build_model: Callable[[str, int], nn.Module]
) -> Teacher:
    """Read a teacher from its checkpoint and freeze it.

    Raises UserError for a teacher of other classes or another image size, or a file that is none.
    """
    kept = load_checkpoint(path)
    for name, value in (
        ("class_names", list(dataset.train.class_names)),
        ("image_size", dataset.train.image_size),
    ):
        if kept[name] != value:
            hint = "train a teacher on this dataset, or name another --teacher-checkpoint"
            raise UserError(f"the teacher {path} has {name} {kept[name]}, the dataset has {value}", hint)
    model = compute.place(restore_network(path, kept, build_model)).eval().requires_grad_(False)
    accuracy = kept["metrics"]["val_top1"]
    part = "validation" if accuracy is not None else "training"
    accuracy = kept["metrics"]["train_top1"] if accuracy is None else accuracy
    description = f"{kept['model_name']}, {part} top-1 {accuracy:.2f} %, {path}"
    if kept["epoch"] < kept["config"]["epochs"]:
        description += f" (unfinished: epoch {kept['epoch']} of {kept['config']['epochs']})"
    rescale = _rescale(Normalise(kept["mean"], kept["std"]), dataset.normalise, compute.device)
    return Teacher(model, compute, kept["model_name"], kept["sha256"], description, rescale)


def _rescale(own: Normalise, students: Normalise, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(shift, scale), [3, 1, 1] each, so that shift + scale * x is what the teacher was trained with."""
    if own == students:
        return None
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (own.mean, own.std))
    batch_mean, batch_std = (torch.tensor(v, device=device)[:, None, None] for v in (students.mean, students.std))
    return (batch_mean - mean) / std, batch_std / std
