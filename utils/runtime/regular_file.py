"""A file is looked at before it is opened: a pipe or a device would hang, and a giant would fill the memory."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from utils.runtime.errors import DamagedFile

# Bytes that are read of a file at most, far beyond what is plausible.
LARGEST_TEXT = 64 << 20  # config.json, analysis.json, history.csv
LARGEST_IMAGE = 2 << 30
LARGEST_WEIGHTS = 32 << 30
HOLLOW = 64 << 20  # a larger file than this, of which less than an eighth is on the disk, is mostly a hole
SMALLER = "name a smaller file, or use another copy"


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading; never waits.

    Raises OSError where there is none or it is a folder, DamagedFile for what is no file and for an implausible
    size.
    """
    require_regular(path, most)  # before it is opened, which alone has effects on some devices
    no_wait = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait))  # noqa: SIM115
    try:
        _check(path, os.fstat(file.fileno()), most)  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """The content of a regular file; raises like `open_regular`. What claims no size, as in /proc, is empty."""
    with open_regular(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def require_regular(path: Path, most: int | None = None) -> None:
    """Raise what `open_regular` raises, and open nothing."""
    _check(path, os.stat(path), most)


def _check(path: Path, state: os.stat_result, most: int | None) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        raise DamagedFile(f"{path} is a device or pipe, not a file")
    size = state.st_size
    if most is not None and size > most:
        raise DamagedFile(f"{path} is too large: {size / 1e6:,.0f} MB of at most {most / 1e6:,.0f}", SMALLER)
    on_disk = getattr(state, "st_blocks", 0) * 512  # 0 where the system does not tell
    if size > HOLLOW and 0 < on_disk < size / 8:
        raise DamagedFile(f"{path} is mostly a hole: {on_disk:,} of its {size:,} bytes are on the disk", SMALLER)
