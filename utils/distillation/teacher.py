"""The frozen teacher."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.data.batches import Batch, Normalise
from utils.data.dataset import Dataset, evaluation_batches
from utils.distillation.taps import TappedNetwork
from utils.evaluation.metrics import evaluate
from utils.losses import Outputs
from utils.runtime.checkpoint import BuildModel, load_checkpoint, restore_network, weights_sha256
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.weights import fit_weights

QUICK = 500  # images of a quick measurement


@dataclass(frozen=True)
class LiveTeacher:
    """Runs the network on each batch; never changes."""

    network: TappedNetwork
    compute: Compute
    name: str
    sha256: str  # of its weights
    description: str
    rescale: tuple[Tensor, Tensor] | None  # from the student's normalisation to its own, where they differ
    run: dict[str, Any] = field(default_factory=dict)  # the record of the settings that trained it, where known

    def show(self, view: int) -> None:
        """Nothing to prepare: the network runs on the batch itself."""

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """Outputs for the batch as the student sees it: same crop, same flip."""
        images = batch.images
        if self.rescale is not None:
            shift, scale = self.rescale
            images = torch.addcmul(shift, images, scale)
        with self.compute.autocast():
            return self.network(images)


def load_teacher(
    path: Path, name: str, needs: str, dataset: Dataset, compute: Compute, build_model: BuildModel
) -> LiveTeacher:
    """Read a teacher and freeze it: a checkpoint of this program, or the plain state_dict of a network `name`.

    `needs` is what a method asks of its outputs. Warns of one that guesses, and of one that was trained on other
    images. Raises UserError for a teacher of other classes or another image size, or a file that is none.
    """
    checkpoint = load_checkpoint(path, plain=True)
    if "format" not in checkpoint:  # of another program
        network, classes = build_model(name, dataset.train.num_classes), dataset.train.num_classes
        weights = fit_weights(path, checkpoint["model"], network.state_dict(), f"a {name} of {classes} classes")
        for note in (*checkpoint["notes"], *weights.notes):
            print(f"note: {path}: {note}", file=sys.stderr)
        checkpoint = dataset.describe() | {"model_name": name, "model": weights.tensors}
    for key, value in (("class_names", list(dataset.train.class_names)), ("image_size", dataset.train.image_size)):
        if checkpoint[key] != value:
            hint = "train a teacher on this dataset, or name another --teacher-checkpoint"
            raise UserError(f"the teacher {path} has {key} {checkpoint[key]}, the dataset has {value}", hint)
    model = restore_network(path, checkpoint, build_model).eval().requires_grad_(False)
    model = compute.place(fold_batch_norm(model) if needs == "logits" else model)
    normalise = Normalise(checkpoint["mean"], checkpoint["std"])
    part, top1 = _accuracy(checkpoint, model, dataset, compute)
    description = f"{checkpoint['model_name']}, {part} top-1 {top1:.2f} %, {path}"
    run = {}
    if "config" in checkpoint:
        identity = Identity.from_record(checkpoint["config"])
        run = identity.to_record() if identity.is_plain() else {}
        if checkpoint["epoch"] < identity["epochs"]:
            description += f" (unfinished: epoch {checkpoint['epoch']} of {identity['epochs']})"
        if identity.get("data") != dataset.fingerprints["data"]:
            text = "its training may have had images that are held out here"
            print(f"warning: the teacher {path} was trained on other images: {text}", file=sys.stderr)
    chance = 100 / dataset.train.num_classes
    if top1 < chance + 0.05 * (100 - chance):
        print(f"warning: THE TEACHER GUESSES: {part} top-1 {top1:.2f} % ({path})", file=sys.stderr)
    # Computed, not read: weights that were changed in the file must not find the cached outputs of those before.
    sha256 = weights_sha256(checkpoint["model"])
    rescale = _rescale(normalise, dataset.normalise, compute.device)
    try:
        images = next(evaluation_batches(dataset.train, normalise).epoch(0)).images
        network = TappedNetwork(model, needs, images)
    except ValueError as error:
        raise UserError(f"the teacher {path}: {error}", "choose a --method that matches logits") from error
    return LiveTeacher(network, compute, checkpoint["model_name"], sha256, description, rescale, run)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a frozen network with each batch norm multiplied into the convolution before it, where it can be.

    On two cores VGG19-BN is 3 to 35 % faster so (batches of 128 and 250). The copy is traced: hooks on the
    modules of the network would not fire in it, so only who asks for logits alone may have it.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    try:
        from torch.fx.experimental.optimization import fuse

        return fuse(model)
    except Exception:  # a network whose forward pass branches on data cannot be traced, each in its own way
        return model


def _accuracy(
    checkpoint: dict[str, Any], model: nn.Module, dataset: Dataset, compute: Compute
) -> tuple[str, float]:
    """What is known of a teacher's top-1 in percent, or else a quick measurement, and on which images it was."""
    for part in ("val", "train"):
        top1 = checkpoint.get("metrics", {}).get(f"{part}_top1")
        if top1 is not None:
            return {"val": "validation", "train": "training"}[part], top1
    images = dataset.val or dataset.train
    few = images.select(torch.arange(min(QUICK, len(images)), device=images.labels.device))
    batches = evaluation_batches(few, Normalise(checkpoint["mean"], checkpoint["std"]))
    return f"{len(few)} images'", evaluate(model, batches, compute).top1


def _rescale(own: Normalise, students: Normalise, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(shift, scale), [3, 1, 1] each, so that shift + scale * x is what the teacher was trained with."""
    if own == students:
        return None
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (own.mean, own.std))
    batch_mean, batch_std = (torch.tensor(v, device=device)[:, None, None] for v in (students.mean, students.std))
    return (batch_mean - mean) / std, batch_std / std
