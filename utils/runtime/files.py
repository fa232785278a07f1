"""Files of text and of tensors: written whole or not at all, and data only when they are read."""

import errno
import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.runtime.atomic import atomic_write
from utils.runtime.errors import DamagedFile, printable, reading
from utils.runtime.file_kind import LEGACY, TORCH, identify
from utils.runtime.nesting import largest_tuple
from utils.runtime.regular_file import LARGEST_WEIGHTS, open_regular


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; bytes of paths that are none come out as they came in."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="surrogateescape"))


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values with a checksum, atomically, as `read_tensors` reads it."""
    with atomic_write(path) as file:
        try:
            torch.save(content | {CHECKSUM: checksum(content)}, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def read_tensors(path: Path, mmap: bool = False, foreign: bool = False) -> dict[str, Any]:
    """Read a dict of tensors and plain values; nothing in the file can run code (`weights_only=True`).

    Damage is detected by the checksum that `write_tensors` puts in, or else by the CRC of each part of the archive
    (`torch.load` alone accepts a flipped bit in a weight), and by tensors that claim more than the file holds.
    With `foreign`, files of other programs are read too: torch's format from before 1.6, and harmless objects
    beside the tensors, each as an `Unread`. Raises OSError where there is nothing to read, DamagedFile for
    anything else.
    """
    kind = identify(path)
    if kind is not TORCH and not (foreign and kind is LEGACY):
        raise DamagedFile(f"{path} is {kind.what}", kind.hint or COPY)
    if kind is TORCH:
        _require_stored(path)
    else:
        with open_regular(path, LARGEST_WEIGHTS) as file:
            _require_small_tuples(path, file.read(LARGEST_PICKLE), LEGACY_STREAMS)
    try:
        content = _load(path, mmap, [(Unread, name) for name in HARMLESS] if foreign else [])
    except DamagedFile:
        if kind is TORCH:
            _require_crc(path)  # the better reason
        raise
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} holds a {type(content).__name__}, not a dict", COPY)
    with reading(path):
        _require_plausible(path, content, foreign)
        expected = content.pop(CHECKSUM, None)
        if expected is None:
            if kind is TORCH:
                _require_crc(path)
        elif not isinstance(expected, str) or expected != checksum(content):
            raise DamagedFile(f"{path} is damaged: its content does not match its checksum", COPY)
    return content


class Unread:
    """Stands for an object that a file holds beside its tensors: no code of its class has run."""

    def __new__(cls, *_arguments: Any) -> "Unread":
        return object.__new__(cls)

    def __init__(self, *_arguments: Any):
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


CHECKSUM = "checksum"
COPY = "use another copy, or make it again"
SAVE = "save its tensors alone, in its own program: torch.save(model.state_dict(), 'weights.pt')"
# What training scripts commonly save beside the weights: NumPy's scalars and arrays, and the command line.
HARMLESS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
)
TIMES = 8  # by which tensors that share memory may exceed the file
# More than any network and its training have, of what takes its time to look at: tensors, values, bytes of pickle.
MOST_TENSORS, MOST_VALUES, LARGEST_PICKLE, LARGEST_TUPLE = 50_000, 1_000_000, 32 << 20, 20_000
LEGACY_STREAMS = 5  # before the tensors: a magic number, a version, the system, the content, the tensors' names
PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool)
PLAIN += (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _load(path: Path, mmap: bool, allowed: list[Any]) -> Any:
    try:
        # An open file, because torch goes by the name of a path; for mmap it must be the path.
        with (
            open_regular(path, None if mmap else LARGEST_WEIGHTS) as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(allowed),
        ):
            warnings.simplefilter("ignore")
            source = str(path) if mmap else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except (DamagedFile, OSError):
        raise
    except Exception as error:  # a crafted file makes torch.load raise anything
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            what = f"{path} holds Python objects ({printable(name[1], 80)}), not only tensors"
            raise DamagedFile(what, SAVE) from error
        reason = re.sub(r"(?s).*WeightsUnpickler error:|\s+", " ", str(error)).strip()
        what = f"{path} is damaged or not a file of tensors ({printable(reason, 120)})"
        raise DamagedFile(what, COPY) from error


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip archive that `torch.save` writes; what is wrong with it raises DamagedFile."""
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged directory points before the start of the file
            raise
        raise DamagedFile(f"{path} is damaged", COPY) from error


def _require_stored(path: Path) -> None:
    """Check that no small file unfolds into a big one."""
    with _archive(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise DamagedFile(f"{path} is compressed, as torch.save never does", COPY)
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise DamagedFile(f"{path} is damaged: its parts claim more than the file holds", COPY)
        for part in parts:
            if part.filename.endswith("data.pkl"):
                if part.file_size > LARGEST_PICKLE:
                    what = f"{path} holds more than tensors: {part.file_size / 1e6:,.0f} MB of other values"
                    raise DamagedFile(what, SAVE)
                _require_small_tuples(path, archive.read(part))


def _require_small_tuples(path: Path, data: bytes, streams: int = 1) -> None:
    if largest_tuple(data, streams) > LARGEST_TUPLE:
        raise DamagedFile(f"{path} is damaged: it has a tuple of more than {LARGEST_TUPLE:,} values", COPY)


def _require_crc(path: Path) -> None:
    with _archive(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise DamagedFile(f"{path} is damaged in {printable(broken, 80)}", COPY)


def _require_plausible(path: Path, content: dict[str, Any], foreign: bool) -> None:
    """Refuse what could not have come from so small a file, before anything of that size is made.

    And tensors of unusual types, but in files of other programs, where they may be no weights.
    """
    size, claims, tensors = path.stat().st_size, 0, 0
    for values, (name, leaf) in enumerate(leaves(content)):
        claims += 1
        if isinstance(leaf, Tensor):
            if leaf.layout != torch.strided or leaf.device.type != "cpu":
                raise DamagedFile(f"{path} is damaged: {printable(name, 80)} is no plain tensor", COPY)
            if leaf.dtype not in PLAIN and not foreign:
                what = f"{path} has a tensor of type {dtype_name(leaf)}, in {printable(name, 80)}"
                raise DamagedFile(what, COPY)
            claims += leaf.numel() * leaf.element_size()
            tensors += 1
        if claims > TIMES * size:
            raise DamagedFile(f"{path} is damaged: {printable(name, 80)} claims more than the file holds", COPY)
        if tensors > MOST_TENSORS or values > MOST_VALUES:
            what = f"{MOST_TENSORS:,} tensors or {MOST_VALUES:,} values"
            raise DamagedFile(f"{path} is damaged: it holds more than {what}", COPY)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def checksum(content: Any) -> str:
    """SHA-256 (hex) of nested dicts and lists of tensors and plain values, names and order included."""
    digest = hashlib.sha256()
    for name, leaf in leaves(content):
        text = sha256_of({"": leaf}) if isinstance(leaf, Tensor) else repr(leaf)
        digest.update(f"{name}={text}\n".encode())
    return digest.hexdigest()


def leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All tensors and plain values in nested dicts, lists and tuples, each with its path."""
    if depth > 20:
        raise RecursionError("it is nested in itself")
    if isinstance(value, (dict, list, tuple)):
        yield name, f"{type(value).__name__} of {len(value)}"
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{name}/{key!r}", depth + 1)
    else:
        yield name, value


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the names, dtypes, shapes and bytes of CPU tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, because NumPy does not know bfloat16.
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
