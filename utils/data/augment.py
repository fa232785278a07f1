"""What is random about a training image in an epoch: its position in the order, crop, flip and erased square.

All of it is a pure function of (seed, epoch or view, image), drawn on the CPU for a whole epoch at once: the
batches are the same on every device, and a resumed run needs no saved random state.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.runtime.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)
JITTER = 0.4  # how far brightness, contrast and saturation of a strong view are from 1
VERSION = 1  # part of the key of a teacher's cached outputs: raise it when the same view shows other pixels
ORDER, CROP, FLIP, CUTOUT, COLOUR = range(5)  # one independent stream of numbers for each purpose


class View(NamedTuple):
    """The augmentation of every image in an epoch; int64 [N] each, or [2 * N] with strong images behind."""

    top: Tensor  # first row of the crop in the padded image, 0 to 2 * padding
    left: Tensor
    flip: Tensor  # 0 or 1
    erase_y: Tensor  # centre of the erased square
    erase_x: Tensor
    # Factors of brightness, contrast and saturation, float32 [N, 3] of strong images
    colour: Tensor = torch.empty(0, 3)

    def to(self, device: torch.device) -> "View":
        return View(*(value.to(device, non_blocking=True) for value in self))


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the reflect-padded image, a mirror image every other time, a square erased.

    With `strong`, each image comes twice: as above, and with other colours and a square of half the side erased.
    """

    padding: int = 4  # pixels on each side
    flip: bool = True
    cutout: int = 0  # side of the erased square in pixels; 0: none
    strong: bool = False

    def check(self, size: int) -> None:
        """Raise UserError where images of `size` pixels a side cannot be padded by reflection."""
        if self.padding >= size:
            what = f"--padding {self.padding} is too large for images of {size}x{size} pixels"
            raise UserError(what, f"the largest that works is {size - 1}")

    def draw_view(self, seed: int, view: int, count: int, size: int) -> View:
        """The augmentation number `view` of `count` images of `size` pixels a side.

        An image that is flipped in one view is not in the next: over two epochs a network sees both sides of
        every image once, after a random first side (Jordan, *94% on CIFAR-10 in 3.29 seconds*, 2024, section 3.6).
        """
        strong, count = count * self.strong, count * (1 + self.strong)
        crop = _stream(seed, CROP, view).integers(0, 2 * self.padding + 1, (2, count))
        first_side = _stream(seed, FLIP, 0).integers(0, 2, count)
        flip = (first_side + view) % 2 if self.flip else np.zeros_like(first_side)
        erase = _stream(seed, CUTOUT, view).integers(0, size, (2, count))
        colour = _stream(seed, COLOUR, view).uniform(1 - JITTER, 1 + JITTER, (strong, 3)).astype(np.float32)
        return View(*(torch.from_numpy(values) for values in (*crop, flip, *erase, colour)))

    def apply(self, images: Tensor, indices: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
        """The images at `indices` as `view` shows them, [B] of them; with `strong`, [2 * B].

        Takes the whole set `images` (uint8 [N, H, W, 3]) and `indices` (int64 [B]). Returns uint8 [B, H, W, 3]
        and, where squares are erased, which pixels are (bool [B, H, W], a square is clipped at the edges).
        """
        if not self.strong:
            return self._apply(images, indices, indices, view, self.cutout)
        size = images.shape[1]
        usual, erased = self._apply(images, indices, indices, view, self.cutout)
        strong, half = self._apply(images, indices, indices + len(images), view, size // 2)
        erased = torch.zeros_like(half) if erased is None else erased
        return torch.cat([usual, _jitter(strong, view.colour[indices])]), torch.cat([erased, half])

    def _apply(
        self, images: Tensor, indices: Tensor, entries: Tensor, view: View, cutout: int
    ) -> tuple[Tensor, Tensor | None]:
        """Cut the images out of their padded selves: one gather, no shape that depends on the data.

        `entries` (int64 [B]) are those of the view.
        """
        count, height, width, _ = images.shape
        rows = self._reflect(view.top[entries], height)
        columns = self._reflect(view.left[entries], width)
        columns = torch.where(view.flip[entries, None] == 1, columns.flip(1), columns)
        sources = (indices * (height * width))[:, None, None] + (rows * width)[:, :, None] + columns[:, None, :]
        pixels = images.view(count * height * width, 3).index_select(0, sources.view(-1))
        pixels = pixels.view(len(indices), height, width, 3)
        if not cutout:
            return pixels, None
        erased_rows = self._erased(view.erase_y[entries], height, cutout)
        erased_columns = self._erased(view.erase_x[entries], width, cutout)
        return pixels, erased_rows[:, :, None] & erased_columns[:, None, :]

    def _reflect(self, start: Tensor, size: int) -> Tensor:
        """Source positions [B, size] of a crop that starts at `start` of an axis padded by reflection."""
        position = start[:, None] - self.padding + torch.arange(size, device=start.device)
        return (size - 1) - ((size - 1) - position.abs()).abs()

    @staticmethod
    def _erased(centre: Tensor, size: int, cutout: int) -> Tensor:
        """Which positions of an axis the square around `centre` covers, bool [B, size]."""
        distance = torch.arange(size, device=centre.device) - (centre[:, None] - cutout // 2)
        return (distance >= 0) & (distance < cutout)


def draw_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the images in `epoch`: a permutation, int64 [count]."""
    return torch.from_numpy(_stream(seed, ORDER, epoch).permutation(count))


def _jitter(pixels: Tensor, factors: Tensor) -> Tensor:
    """Pixels uint8 [B, H, W, 3] with other brightness, contrast and saturation, by factors [B, 3]."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # [B, 1, 1, 1]
    images = pixels * brightness
    grey = sum(share * channel for share, channel in zip(LUMA, images.unbind(3), strict=True))[..., None]
    images = grey + (images - grey) * saturation
    mean = grey.mean((1, 2), keepdim=True)
    return (mean + (images - mean) * contrast).round().clamp(0, 255).to(torch.uint8)


def _stream(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
