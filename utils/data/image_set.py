"""Images as one tensor: selection, the validation split, and what identifies them."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from utils.runtime.errors import UserError
from utils.runtime.files import sha256_of


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size, in memory or memory-mapped."""

    images: Tensor  # uint8 [N, H, W, 3]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        return self.images.shape[1]

    def to(self, device: torch.device) -> "ImageSet":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (int64 [M]), copied."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the images, the labels and the class names."""
        names = hashlib.sha256(repr(self.class_names).encode()).hexdigest()
        return sha256_of({names: self.images.cpu(), "labels": self.labels.cpu()})[:16]

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Per-channel mean and standard deviation of the pixels, on the scale 0 to 255."""
        # Whole numbers add up the same for any number of threads; floats do not.
        total, squares = torch.zeros(2, 3, dtype=torch.int64)
        for chunk in self.images.split(1024):
            pixels = chunk.to(torch.int32).view(-1, 3)
            total += pixels.sum(0)
            squares += pixels.square_().sum(0)
        count = self.images[..., 0].numel()
        mean = total.double() / count
        std = (squares.double() / count - mean**2).clamp(min=1).sqrt()  # at least 1: a channel may be constant
        return mean.tolist(), std.tolist()

    def first(self, count: int) -> "ImageSet":
        """The first `count` images, as many of each class as can be."""
        if count >= len(self):
            return self
        if count < self.num_classes:
            raise UserError(f"--limit {count} is less than one image for each of {self.num_classes} classes")
        return self.select(torch.sort(torch.argsort(_turns(self.labels), stable=True)[:count]).values)

    def split(self, val_size: int) -> tuple["ImageSet", "ImageSet | None"]:
        """Hold out `val_size` images, in proportion of the classes: (training part, validation part or None).

        The choice is the same for every seed, so that no seed's teacher has seen another's validation images.
        """
        if val_size == 0:
            return self, None
        if val_size >= len(self):
            hint = "choose a smaller --val-size, or 0 for none"
            raise UserError(f"--val-size {val_size} leaves nothing of {len(self)} training images", hint)
        shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(self)))
        labels = self.labels[shuffled]
        # By its turn as a share of its class, so that a class of three images is not held out whole.
        share = (_turns(labels) + 0.5) / labels.bincount()[labels]
        chosen = shuffled[torch.argsort(share, stable=True)]
        return self.select(chosen[val_size:].sort().values), self.select(chosen[:val_size].sort().values)


def _turns(labels: Tensor) -> Tensor:
    """The place of each label among the labels of its class, int64 [N]."""
    turns = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        turns[members] = torch.arange(len(members))
    return turns
