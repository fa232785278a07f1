"""Decoded images on disk, one file for each part and size, in which each image has two keys of its own."""

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.data.sources.decode import DECODER
from utils.data.sources.scan import Part
from utils.runtime.files import DamagedFile, read_tensors, write_tensors
from utils.runtime.regular_file import LARGEST_IMAGE, read_regular

KEY_BYTES = 16
TIMES = 8  # by which a cache may exceed the images that are there now: others may have been removed since
OVERHEAD = 2**16  # bytes of a file beside the images


class Decoded(NamedTuple):
    """Images that were decoded, a row each; where both keys are zeros, it was not."""

    images: Tensor  # uint8 [M, size, size, 3]
    states: Tensor  # uint8 [M, KEY_BYTES], of what the file system says of the file
    contents: Tensor  # uint8 [M, KEY_BYTES], of the bytes in the file
    flat: Tensor  # uint8 [M], 1 where decoding left nearly one colour of a file that has more

    @classmethod
    def zeros(cls, count: int, size: int) -> "Decoded":
        shapes = ((size, size, 3), (KEY_BYTES,), (KEY_BYTES,), ())
        return cls(*(torch.zeros(count, *shape, dtype=torch.uint8) for shape in shapes))

    def select(self, indices: np.ndarray) -> "Decoded":
        return Decoded(*(tensor[torch.from_numpy(indices)] for tensor in self))

    def fits(self, size: int) -> bool:
        """Whether these are tensors of the dtypes and shapes above."""
        if not all(isinstance(each, Tensor) and each.dtype == torch.uint8 and each.dim() for each in self):
            return False
        expected = Decoded.zeros(0, size)
        return all(
            each.shape == (len(self.images), *like.shape[1:]) for each, like in zip(self, expected, strict=True)
        )


class ImageCache:
    """The images of a part that were decoded before.

    A file whose state is unchanged is found at once; any other by its content, so that files that were copied,
    moved or touched, or are on a drive that numbers them anew, are read but not decoded again.
    """

    def __init__(self, part: Part, image_size: int):
        """`part` holds all files of its folder, also those that this run does without."""
        self.path = part.folder.parent / f".{part.folder.name}-{image_size}px.pt"
        self.image_size = image_size
        states = bytearray().join(self._key(os.fsencode(file.state)).digest()[:KEY_BYTES] for file in part.files)
        self.states = torch.frombuffer(states, dtype=torch.uint8).view(-1, KEY_BYTES)
        self.refused = self.path.exists() and not self.path.is_file()

    def _key(self, data: bytes = b""):
        return hashlib.sha256(f"{DECODER} {self.image_size} ".encode() + data)

    def content_key(self, path: Path) -> bytes:
        """The key of the content of a file. Raises OSError or DamagedFile where it cannot be read."""
        return self._key(read_regular(path, LARGEST_IMAGE)).digest()[:KEY_BYTES]

    def read(self) -> tuple[Decoded, np.ndarray]:
        """What is cached, its images memory-mapped, and the row of each file of the part in it.

        Rows are int64 [N], -1 for a file whose state is not in the cache.
        """
        nothing = Decoded.zeros(0, self.image_size), np.full(len(self.states), -1)
        if self.refused:
            print(f"warning: no image cache, every start decodes: {self.path} is not a file", file=sys.stderr)
        if self.refused or not self.path.exists():
            return nothing
        row_bytes = self.image_size**2 * 3 + 2 * KEY_BYTES + 1
        large = self.path.stat().st_size > TIMES * len(self.states) * row_bytes + OVERHEAD
        try:
            content = {} if large else read_tensors(self.path, mmap=True)
        except (DamagedFile, OSError):
            content = {}
        cached = Decoded(*map(content.get, Decoded._fields))
        if not cached.fits(self.image_size):
            what = "too large for its images" if large else "damaged or of another version"
            print(f"note: {self.path} is {what}, and is made again", file=sys.stderr)
            return nothing
        row_of = rows_by_key(cached.states)
        return cached, np.array([row_of.get(state.tobytes(), -1) for state in self.states.numpy()])

    def write(self, decoded: Decoded) -> None:
        """Replace the cache."""
        if self.refused:
            return
        try:
            write_tensors(self.path, decoded._asdict())
        except OSError as error:
            warning = f"warning: no image cache, every start decodes: {self.path}: {error.strerror}"
            print(warning, file=sys.stderr)


def rows_by_key(keys: Tensor) -> dict[bytes, int]:
    """The row of each key, uint8 [M, KEY_BYTES]."""
    return {key.tobytes(): row for row, key in enumerate(keys.numpy())}
