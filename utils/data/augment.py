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

VERSION = 1  # part of the key of a teacher's cached outputs: raise it when the same view shows other pixels
ORDER, CROP, FLIP, CUTOUT = range(4)  # one independent stream of numbers for each purpose


class View(NamedTuple):
    """The augmentation of every image in an epoch; int64 [N] each."""

    top: Tensor  # first row of the crop in the padded image, 0 to 2 * padding
    left: Tensor
    flip: Tensor  # 0 or 1
    erase_y: Tensor  # centre of the erased square
    erase_x: Tensor

    def to(self, device: torch.device) -> "View":
        return View(*(value.to(device, non_blocking=True) for value in self))


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the reflect-padded image, a mirror image every other time, a square erased."""

    padding: int = 4  # pixels on each side
    flip: bool = True
    cutout: int = 0  # side of the erased square in pixels; 0: none

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
        crop = _stream(seed, CROP, view).integers(0, 2 * self.padding + 1, (2, count))
        first_side = _stream(seed, FLIP, 0).integers(0, 2, count)
        flip = (first_side + view) % 2 if self.flip else np.zeros_like(first_side)
        erase = _stream(seed, CUTOUT, view).integers(0, size, (2, count))
        return View(*(torch.from_numpy(values) for values in (*crop, flip, *erase)))

    def apply(self, images: Tensor, indices: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
        """Cut the images out of their padded selves: one gather, no shape that depends on the data.

        Takes the whole set `images` (uint8 [N, H, W, 3]) and `indices` (int64 [B]). Returns uint8 [B, H, W, 3]
        and, with `cutout` > 0, which pixels are erased (bool [B, H, W], the square is clipped at the edges).
        """
        count, height, width, _ = images.shape
        rows = self._reflect(view.top[indices], height)
        columns = self._reflect(view.left[indices], width)
        columns = torch.where(view.flip[indices, None] == 1, columns.flip(1), columns)
        sources = (indices * (height * width))[:, None, None] + (rows * width)[:, :, None] + columns[:, None, :]
        pixels = images.view(count * height * width, 3).index_select(0, sources.view(-1))
        pixels = pixels.view(len(indices), height, width, 3)
        if not self.cutout:
            return pixels, None
        erased_rows = self._erased(view.erase_y[indices], height)
        erased_columns = self._erased(view.erase_x[indices], width)
        return pixels, erased_rows[:, :, None] & erased_columns[:, None, :]

    def _reflect(self, start: Tensor, size: int) -> Tensor:
        """Source positions [B, size] of a crop that starts at `start` of an axis padded by reflection."""
        position = start[:, None] - self.padding + torch.arange(size, device=start.device)
        return (size - 1) - ((size - 1) - position.abs()).abs()

    def _erased(self, centre: Tensor, size: int) -> Tensor:
        """Which positions of an axis the square around `centre` covers, bool [B, size]."""
        distance = torch.arange(size, device=centre.device) - (centre[:, None] - self.cutout // 2)
        return (distance >= 0) & (distance < self.cutout)


def draw_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the images in `epoch`: a permutation, int64 [count]."""
    return torch.from_numpy(_stream(seed, ORDER, epoch).permutation(count))


def _stream(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
