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
from utils.losses import Outputs
from utils.runtime.checkpoint import (
    BuildModel,
    complete_checkpoint,
    load_checkpoint,
    restore_network,
    weights_sha256,
)
from utils.runtime.device import Compute
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.normalisation import Explicit, to_unit


@dataclass(frozen=True)
class LiveTeacher:
    """Runs the network on each batch; never changes."""

    network: TappedNetwork
    compute: Compute
    name: str
    sha256: str  # of its weights
    path: Path
    rescale: tuple[Tensor, Tensor] | None  # from the student's normalisation to its own, where they differ
    note: str = ""  # what sets it apart from a finished run of this program
    settings: dict[str, Any] = field(default_factory=dict)  # that are part of a run's identity, beside its weights
    run: dict[str, Any] = field(default_factory=dict)  # the record of the settings that trained it, where known

    def example(self, images: Tensor) -> Outputs:
        """Outputs of which only the shapes matter."""
        return self.network.example(images)

    def set_view(self, view: int) -> None:
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
    path: Path,
    name: str,
    needs: str,
    dataset: Dataset,
    compute: Compute,
    build_model: BuildModel,
    normalisation: Explicit | None = None,
) -> LiveTeacher:
    """Read a teacher and freeze it: a checkpoint of this program, or the plain state_dict of a network `name`.

    `needs` is what a method asks of its outputs, `normalisation` the explicit one of such a state_dict. Warns of a
    teacher that was trained on other images. Raises UserError for one of other classes or another image size, or a
    file that is none.
    """
    checkpoint = load_checkpoint(path, plain=True)
    checkpoint = complete_checkpoint(path, checkpoint, name, dataset.describe, normalisation, build_model)
    for key, value in (("class_names", list(dataset.train.class_names)), ("image_size", dataset.train.image_size)):
        if checkpoint[key] != value:
            hint = "train a teacher on this dataset, or name another --teacher-checkpoint"
            raise UserError(f"the teacher {path} has {key} {checkpoint[key]}, the dataset has {value}", hint)
    model = restore_network(path, checkpoint, build_model).eval().requires_grad_(False)
    model = compute.place(fold_batch_norm(model) if needs == "logits" else model)
    normalise = Normalise(checkpoint["mean"], checkpoint["std"])
    rescale = _rescale(normalise, dataset.normalise, compute.device)
    note, settings, run = "of another program", {}, {}
    if "format" not in checkpoint and rescale is not None:
        unit = to_unit({"mean": normalise.mean, "std": normalise.std})
        settings = {f"teacher_{part}": values for part, values in unit.items()}
    if "format" in checkpoint:
        identity = Identity.from_record(checkpoint["config"])
        run = identity.to_record()
        unfinished = checkpoint["epoch"] < identity["epochs"]
        note = f"unfinished: epoch {checkpoint['epoch']} of {identity['epochs']}" if unfinished else ""
        if identity.get("data") != dataset.fingerprints["data"]:
            text = "its training may have had images that are held out here"
            print(f"warning: the teacher {path} was trained on other images: {text}", file=sys.stderr)
    # Computed, not read: weights that were changed in the file must not find the cached outputs of those before.
    sha256 = weights_sha256(checkpoint["model"])
    try:
        images = next(evaluation_batches(dataset.train, normalise).epoch(0)).images
        network = TappedNetwork(model, needs, images)
    except ValueError as error:
        raise UserError(f"the teacher {path}: {error}", "choose a --method that matches logits") from error
    return LiveTeacher(network, compute, checkpoint["model_name"], sha256, path, rescale, note, settings, run)


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


def _rescale(own: Normalise, students: Normalise, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(shift, scale), [3, 1, 1] each, so that shift + scale * x is what the teacher was trained with."""
    if own == students:
        return None
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (own.mean, own.std))
    batch_mean, batch_std = (torch.tensor(v, device=device)[:, None, None] for v in (students.mean, students.std))
    return (batch_mean - mean) / std, batch_std / std
