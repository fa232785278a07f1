"""The frozen teacher."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from utils.data.batches import Batch, Normalise
from utils.data.dataset import Dataset, evaluation_batches
from utils.evaluation.metrics import evaluate
from utils.runtime.checkpoint import BuildModel, load_checkpoint, restore_network, weights_sha256
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.weights import fit_weights

QUICK = 500  # images of a quick measurement


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


def load_teacher(path: Path, name: str, dataset: Dataset, compute: Compute, build_model: BuildModel) -> Teacher:
    """Read a teacher and freeze it: a checkpoint of this program, or the plain state_dict of a network `name`.

    Warns of one that guesses, and of one that was trained on other images. Raises UserError for a teacher of
    other classes or another image size, or a file that is none.
    """
    kept = load_checkpoint(path, plain=True)
    if "format" not in kept:  # of another program
        network, classes = build_model(name, dataset.train.num_classes), dataset.train.num_classes
        weights = fit_weights(path, kept["model"], network.state_dict(), f"a {name} of {classes} classes")
        for note in (*kept["notes"], *weights.notes):
            print(f"note: {path}: {note}", file=sys.stderr)
        kept = dataset.describe() | {"model_name": name, "model": weights.tensors}
    for key, value in (("class_names", list(dataset.train.class_names)), ("image_size", dataset.train.image_size)):
        if kept[key] != value:
            hint = "train a teacher on this dataset, or name another --teacher-checkpoint"
            raise UserError(f"the teacher {path} has {key} {kept[key]}, the dataset has {value}", hint)
    model = restore_network(path, kept, build_model).eval().requires_grad_(False)
    model = compute.place(fold_batch_norm(model))
    rescale = _rescale(Normalise(kept["mean"], kept["std"]), dataset.normalise, compute.device)
    part, top1 = _accuracy(kept, model, dataset, compute)
    description = f"{kept['model_name']}, {part} top-1 {top1:.2f} %, {path}"
    if "epoch" in kept and kept["epoch"] < kept["config"]["epochs"]:
        description += f" (unfinished: epoch {kept['epoch']} of {kept['config']['epochs']})"
    chance = 100 / dataset.train.num_classes
    if top1 < chance + 0.05 * (100 - chance):
        print(f"warning: THE TEACHER GUESSES: {part} top-1 {top1:.2f} % ({path})", file=sys.stderr)
    if "config" in kept and kept["config"].get("data") != dataset.fingerprints["data"]:
        text = "its training may have had images that are held out here"
        print(f"warning: the teacher {path} was trained on other images: {text}", file=sys.stderr)
    # Computed, not read: weights that were changed in the file must not find answers of those before.
    sha256 = weights_sha256(kept["model"])
    return Teacher(model, compute, kept["model_name"], sha256, description, rescale)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a frozen network with each batch norm multiplied into the convolution before it, where it can be.

    On two cores VGG19-BN answers 3 to 35 % faster so (batches of 128 and 250).
    """
    try:
        return fuse(model)
    except Exception:  # a network whose forward pass branches on data cannot be traced, each in its own way
        return model


def _accuracy(kept: dict[str, Any], model: nn.Module, dataset: Dataset, compute: Compute) -> tuple[str, float]:
    """What is known of a teacher's top-1 in percent, or else a quick measurement, and on which images it was."""
    for part in ("val", "train"):
        top1 = kept.get("metrics", {}).get(f"{part}_top1")
        if top1 is not None:
            return {"val": "validation", "train": "training"}[part], top1
    images = dataset.val or dataset.train
    few = images.select(torch.arange(min(QUICK, len(images)), device=images.labels.device))
    batches = evaluation_batches(few, Normalise(kept["mean"], kept["std"]))
    return f"{len(few)} images'", evaluate(model, batches, compute).top1


def _rescale(own: Normalise, students: Normalise, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(shift, scale), [3, 1, 1] each, so that shift + scale * x is what the teacher was trained with."""
    if own == students:
        return None
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (own.mean, own.std))
    batch_mean, batch_std = (torch.tensor(v, device=device)[:, None, None] for v in (students.mean, students.std))
    return (batch_mean - mean) / std, batch_std / std
