"""Decoded images on disk, one file for each part and size, in which each image has a key of its own."""

import hashlib
import os
import sys

import numpy as np
import torch
from torch import Tensor

from utils.data.sources.decode import DECODER
from utils.data.sources.scan import Part
from utils.runtime.files import DamagedFile, read_tensors, write_tensors

KEY_BYTES = 16


class ImageCache:
    """The images of a part that were decoded before. A row whose key is all zeros was not."""

    def __init__(self, part: Part, image_size: int):
        """`part` holds all files of its folder, also those that this run does without."""
        self.path = part.folder.parent / f".{part.folder.name}-{image_size}px.pt"
        self.image_size = image_size
        self.keys = np.zeros((len(part.files), KEY_BYTES), dtype=np.uint8)
        for key, file in zip(self.keys, part.files, strict=True):
            digest = hashlib.sha256(os.fsencode(f"{DECODER} {image_size} {file.state}")).digest()
            key[:] = np.frombuffer(digest[:KEY_BYTES], np.uint8)

    def read(self) -> tuple[Tensor | None, np.ndarray]:
        """The cached images, memory-mapped, uint8 [M, size, size, 3], and the row of each file in them.

        Rows are int64 [N], -1 for a file that is not in them or has changed since.
        """
        rows = np.full(len(self.keys), -1)
        if not self.path.exists():
            return None, rows
        try:
            content = read_tensors(self.path, mmap=True)
        except DamagedFile:
            content = {}
        keys, images = content.get("keys"), content.get("images")
        shape = (len(keys), *[self.image_size] * 2, 3) if _is_bytes(keys) else None
        if not _is_bytes(images) or images.shape != shape or keys.shape != (len(keys), KEY_BYTES):
            print(f"note: {self.path} is damaged or of another version, and is made again", file=sys.stderr)
            return None, rows
        row_of = {key.tobytes(): row for row, key in enumerate(keys.numpy())}
        return images, np.array([row_of.get(key.tobytes(), -1) for key in self.keys])

    def write(self, images: Tensor, keys: np.ndarray) -> None:
        """Replace the cache by images, uint8 [M, size, size, 3], with their keys, uint8 [M, KEY_BYTES]."""
        try:
            write_tensors(self.path, {"keys": torch.from_numpy(keys), "images": images})
        except OSError as error:
            warning = f"warning: no image cache, every start decodes: {self.path}: {error.strerror}"
            print(warning, file=sys.stderr)


def _is_bytes(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() > 0
