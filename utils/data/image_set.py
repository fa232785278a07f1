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
    flip: bool = True  # whether a mirrored image still is of its class: digits are not
    files: tuple[str, ...] | None = None  # of each image its own, within the data folder, where it has one

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
        files = tuple(self.files[index] for index in indices.tolist()) if self.files else None
        return replace(self, images=_take(self.images, indices), labels=self.labels[indices], files=files)

    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the images, the labels and the class names."""
        names = hashlib.sha256(repr(self.class_names).encode()).hexdigest()
        return sha256_of({names: self.images.cpu(), "labels": self.labels.cpu()})[:16]

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Per-channel mean and standard deviation of the pixels, on the scale 0 to 255."""
        # Whole numbers have the same sum for any number of threads; floats do not.
        histogram = torch.zeros(3, 256, dtype=torch.int64, device=self.images.device)
        for chunk in self.images.split(1024):
            for channel in range(3):
                histogram[channel] += chunk[..., channel].flatten().bincount(minlength=256)
        value = torch.arange(256, device=self.images.device)
        total, squares = (histogram * value).sum(1), (histogram * value**2).sum(1)
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
        return self.select(torch.sort(torch.argsort(_rank_in_class(self.labels), stable=True)[:count]).values)

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
        # By its rank as a share of its class, so that a class of three images is not held out whole.
        share = (_rank_in_class(labels) + 0.5) / labels.bincount()[labels]
        chosen = shuffled[torch.argsort(share, stable=True)]
        return self.select(chosen[val_size:].sort().values), self.select(chosen[:val_size].sort().values)


def _take(values: Tensor, indices: Tensor) -> Tensor:
    if values.is_cpu:  # numpy takes an eighth of torch's time
        return torch.from_numpy(values.numpy().take(indices.numpy(), axis=0))
    return values[indices]


def _rank_in_class(labels: Tensor) -> Tensor:
    """The number of earlier labels of the same class, int64 [N]."""
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members))
    return rank
