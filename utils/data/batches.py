"""How images are served: shuffled and augmented for training, in order for evaluation."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from utils.data.augment import Augmentation, View, draw_order
from utils.data.image_set import ImageSet

USUAL = Augmentation()  # of images of 32 pixels a side


class Batch(NamedTuple):
    """`B` images as a network takes them, and which ones they are.

    With a strong view of each image, these stand behind the others, their indices raised by the number of images.
    """

    images: Tensor  # float32 [B, 3, H, W], channels_last, normalised
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], into the image set


@dataclass(frozen=True)
class Normalise:
    """Pixels 0 to 255 to zero mean and unit variance, per channel."""

    mean: list[float]
    std: list[float]

    def __call__(self, pixels: Tensor, erased: Tensor | None = None) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in channels_last; erased pixels become the mean."""
        shift, scale = _affine(tuple(self.mean), tuple(self.std), pixels.device)
        images = torch.addcmul(shift, pixels, scale)
        if erased is not None:
            images.masked_fill_(erased[..., None], 0)
        return images.permute(0, 3, 1, 2)


@functools.cache  # made once: to copy numbers to a CUDA device is to wait for it
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(shift, scale), [3] each."""
    scale = 1 / torch.tensor(std)
    return (-torch.tensor(mean) * scale).to(device), scale.to(device)


class Batches:
    """The images of a set in batches, an epoch at a time, on the device that the set is on.

    With `seed`, each epoch has its own order, and serves view `epoch % views` of the images (a fresh one in each
    epoch where `views` is 0); without, images come as they are, in order. The last batch may be smaller; one of
    a single image is left out of a shuffled epoch, because batch norm learns nothing from it and a small network
    may fail on it. Raises UserError for an augmentation that the size of the images does not allow.
    """

    def __init__(
        self,
        image_set: ImageSet,
        normalise: Normalise,
        batch_size: int,
        seed: int | None = None,
        augmentation: Augmentation = USUAL,
        views: int = 0,
    ):
        self.image_set, self.normalise, self.batch_size = image_set, normalise, batch_size
        self.seed, self.augmentation, self.views = seed, augmentation, views
        if seed is not None:
            augmentation.check(image_set.image_size)
        single = seed is not None and len(image_set) % batch_size == 1 and len(image_set) > batch_size > 1
        self.num_images = len(image_set) - single

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_images // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch` (0, 1, ...): a pure function of the seed and the epoch."""
        if self.seed is None:
            return self._in_order()
        order, view = self.order(epoch), self.view(self.view_number(epoch))
        return (self.serve(indices, view) for indices in order)

    def view_number(self, epoch: int) -> int:
        """The view that `epoch` serves."""
        return epoch % self.views if self.views else epoch

    def view(self, number: int) -> View:
        """The augmentation of all images in view `number`."""
        view = self.augmentation.draw_view(self.seed, number, len(self.image_set), self.image_set.image_size)
        return view.to(self.device)

    def order(self, epoch: int) -> tuple[Tensor, ...]:
        """The indices of the images in each batch of `epoch`, int64 [B] each."""
        order = draw_order(self.seed, epoch, len(self.image_set)).to(self.device, non_blocking=True)
        return order[: self.num_images].split(self.batch_size)

    def serve(self, indices: Tensor, view: View) -> Batch:
        """The images at `indices` (int64 [B]) as `view` augments them; waits for nothing."""
        pixels, erased = self.augmentation.apply(self.image_set.images, indices, view)
        labels = self.image_set.labels[indices]
        if self.augmentation.strong:
            labels, indices = labels.repeat(2), torch.cat([indices, indices + len(self.image_set)])
        return Batch(self.normalise(pixels, erased), labels, indices)

    @property
    def rows(self) -> int:
        """Augmented images in a view: twice as many with a strong view of each."""
        return len(self.image_set) * (1 + self.augmentation.strong)

    @property
    def device(self) -> torch.device:
        return self.image_set.images.device

    def _in_order(self) -> Iterator[Batch]:
        images, labels = self.image_set.images, self.image_set.labels
        indices = torch.arange(len(labels), device=labels.device)
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield Batch(self.normalise(images[part]), labels[part], indices[part])
