"""Files on disk: whole or absent whatever happens while they are written, and data only when they are read."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.errors import UserError

SUFFIX = ".tmp"


class DamagedFile(UserError):
    """A file that is not what it should be."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Give a binary file to write to; it becomes `path` when the block ends without an error.

    Written beside `path`, flushed and fsynced, then renamed over it, and the folder fsynced, so that
    after a crash or a power cut `path` holds either its old or its new content, whole. On an error the
    old file stays and the temporary one goes.
    """
    # The process number keeps two writers of one path (a shared image cache) out of each other's way.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    """Make the rename itself durable (Windows has no such call)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, atomically, as `read_tensors` reads it."""
    with atomic_write(path) as file:
        torch.save(content, file)


def read_tensors(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a dict of tensors and plain values; nothing in the file can run code (`weights_only=True`).

    Raises FileNotFoundError or another OSError where there is nothing to read, DamagedFile for anything
    that is not such a dict.
    """
    if path.stat().st_size == 0:
        raise DamagedFile(f"{path} is empty")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DamagedFile(f"{path} is damaged or not a file of tensors ({reason})") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} holds a {type(content).__name__}, not a dict")
    return content


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the names, dtypes, shapes and bytes of CPU tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, because NumPy does not know bfloat16.
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
