"""Files and folders that appear whole or not at all, and locks that end with the process that holds them."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks; files that are open cannot be renamed or removed there
    fcntl = None

TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{16}\.tmp")
NAME_LENGTH = 40  # characters of a file's name in that of its temporary one: the whole may be too long for another
BINARY = getattr(os, "O_BINARY", 0)
# Links are not followed, and a pipe without another end is not waited for.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | BINARY


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Give a binary file to write to; it becomes `path` when the block ends without an error.

    Written beside `path` under a name that nobody can guess, flushed and fsynced, then renamed over it, and the
    folder fsynced, so that after a crash or a power cut `path` holds either its old or its new content, whole. A
    link at `path` is replaced, not followed. On an error the old file stays and the temporary one goes; an OSError
    names `path`.
    """
    with _temporary(path, _new_file) as (temporary, descriptor):
        with open(descriptor, "wb", closefd=fcntl is None) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        fsync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to write files to; it becomes `path`, absent or empty before, by a single rename.

    Durable and on an error as with `atomic_write`.
    """
    with _temporary(path, _new_folder) as (temporary, _):
        yield temporary
        for name in (*os.listdir(temporary), "."):
            fsync(temporary / name)
        with suppress(OSError):
            path.rmdir()  # Windows does not rename over an empty folder
        os.rename(temporary, path)
        fsync(path.parent)


@contextmanager
def _temporary(path: Path, create: Callable[[Path], int | None]) -> Iterator[tuple[Path, int | None]]:
    """Create a temporary beside `path`, and hold a lock on it, by which others know that it is in use."""
    remove_abandoned(path.parent)
    temporary = descriptor = None
    try:
        while temporary is None or not temporary.exists():  # removed by another process before it was locked
            _close(descriptor)
            name = f".{path.name[:NAME_LENGTH]}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
            temporary = path.with_name(name)
            descriptor = create(temporary)
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks, on which nothing is taken for abandoned
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield temporary, descriptor
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):
                _remove(temporary)
        _close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose process has ended, never those of a living one."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in filter(TEMPORARY.fullmatch, names):
        path = folder / name
        with suppress(OSError):  # in use, a link, of another user, or just removed by another process
            if fcntl is None:
                path.unlink()
                continue
            with opened(path, os.O_RDONLY if path.is_dir() else os.O_RDWR) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)


@contextmanager
def try_lock(path: Path) -> Iterator[None]:
    """Hold a lock file within the block; the lock ends with the process, however that ends.

    A file that is there keeps its content. Raises BlockingIOError if another process holds the lock, and OSError
    where `path` is a link or no file. Windows has no such lock, and everybody gets it.
    """
    with opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """The descriptor of a file or folder, within the block. Raises OSError for a link, a device and a pipe."""
    descriptor = os.open(path, flags | PLAIN, 0o666)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "a device or pipe, not a file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)


def _new_folder(path: Path) -> int | None:
    path.mkdir()
    return os.open(path, os.O_RDONLY) if fcntl is not None else None


def _close(descriptor: int | None) -> None:
    if fcntl is not None and descriptor is not None:  # on Windows it was closed before the rename
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Make the content of a file or the names in a folder durable (Windows has no such call for folders)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
