"""Files of cached outputs, one for each view of the training images, within a limit of what they take."""

import os
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from utils.losses import Outputs
from utils.runtime.atomic import opened, remove_abandoned
from utils.runtime.errors import DamagedFile
from utils.runtime.files import read_tensors, write_tensors

HEADER = "teacher_outputs"  # the first entry of each file, by which it is known as ours
OVERHEAD = 4096  # bytes of a file beside the outputs


class OutputCache:
    """One file for each view: float16 tensors with a checksum, written whole or not at all."""

    def __init__(self, folder: Path, key: str, images: int, needs: str = "logits"):
        self.folder, self.key, self.images, self.needs = folder, key, images, needs

    def path(self, view: int) -> Path:
        return self.folder / f"view{view:03}.pt"

    def read(self, view: int) -> Outputs | None:
        """The outputs for a view; None if they are not there or not whole."""
        path = self.path(view)
        try:
            content = read_tensors(path)
        except (DamagedFile, OSError):
            return None
        logits, embedding = content.get("logits"), content.get("embedding")
        wanted = [logits, embedding] if self.needs == "embedding" else [logits]
        fits = (isinstance(each, Tensor) and each.dtype == torch.float16 and each.dim() == 2 for each in wanted)
        if content.get(HEADER) != self.key or not all(fits) or any(len(each) != self.images for each in wanted):
            return None
        with suppress(OSError):
            os.utime(path)  # used just now: not the one to make room
        return Outputs(logits, embedding if self.needs == "embedding" else None)

    def write(self, view: int, outputs: Outputs) -> None:
        content = {HEADER: self.key, "logits": outputs.logits}
        if outputs.embedding is not None:
            content["embedding"] = outputs.embedding
        write_tensors(self.path(view), content)


def make_room(folder: Path, keep: Path, need: float, limit: float) -> None:
    """Remove the outputs used longest ago until the rest and `keep`, which may grow to `need` bytes, fit.

    Files that are not ours do not count, and stay.
    """
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            remove_abandoned(each)
    states = {}
    for path in folder.glob("*/view*.pt"):
        with suppress(FileNotFoundError):  # another process has just removed it
            if path.parent != keep and _is_ours(path):
                states[path] = path.stat()
    sizes = {path: state.st_size for path, state in states.items()}
    for path in sorted(states, key=lambda path: states[path].st_mtime):
        if need + sum(sizes.values()) <= limit:
            break
        print(f"note: {path} is removed to stay within --teacher-cache-limit")
        path.unlink(missing_ok=True)
        del sizes[path]


def _is_ours(path: Path) -> bool:
    """Whether a file begins with the header and key of an `OutputCache`, whole or not; a link never does."""
    try:
        with opened(path, os.O_RDONLY) as descriptor:
            head = os.read(descriptor, OVERHEAD)
    except OSError:
        return False
    return re.search(HEADER.encode() + rb".{1,9}\w{64}", head, re.DOTALL) is not None
