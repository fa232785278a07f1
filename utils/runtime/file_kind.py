"""What a file is, by its content: its name may say anything."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.runtime.errors import printable
from utils.runtime.regular_file import open_regular

HEAD = 4096  # bytes at the beginning that are looked at
LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file


@dataclass(frozen=True)
class FileKind:
    """`what` completes the sentence "FILE is ...", `hint` says what to do with it."""

    what: str
    hint: str = ""


UNPACK = "unpack it, and name the file of weights in it"
TRUSTED = "where you trust it, torch.save({}, 'weights.pt') in a program of your own"
CONVERT = "convert its weights to a state_dict of torch, in a program of your own"

TORCH = FileKind("a file of torch.save")
LEGACY = FileKind("a file of torch.save from before torch 1.6")
SAFETENSORS = FileKind("a safetensors file")
TORCHSCRIPT = FileKind(
    "a TorchScript archive, which holds code", TRUSTED.format("torch.jit.load(FILE).state_dict()")
)
EXPORTED = FileKind("a program of torch.export (.pt2)", TRUSTED.format("torch.export.load(FILE).state_dict"))
PICKLE = FileKind("a Python pickle, which can run code", TRUSTED.format("model.state_dict()"))
NUMPY = FileKind(
    "a file of NumPy arrays",
    "save tensors: torch.save({name: torch.from_numpy(array) for name, array in numpy.load(FILE).items()}, ...)",
)
ONNX = FileKind("an ONNX network, without its training form", "name the checkpoint that it was exported from")
TENSORFLOW = FileKind("a TensorFlow file", CONVERT)
KERAS = FileKind("a Keras file", CONVERT)

HTML = FileKind(
    "an HTML page, not the file itself", "download it again, by the link of the file and not of its page"
)
LFS = FileKind("a git-lfs pointer, not the file itself", "git lfs pull")
EMPTY = FileKind("empty", "use another copy, or make it again")

# (offset, bytes) of the formats that a few bytes tell
SIGNATURES = (
    (0, b"PK\x07\x08", FileKind("a part of a zip archive", UNPACK)),
    (0, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", LEGACY),
    (0, b"\x93NUMPY", NUMPY),
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file, as Keras writes", CONVERT)),
    (4, b"TFL3", FileKind("a TensorFlow Lite network", CONVERT)),
    (0, b"model_checkpoint_path:", TENSORFLOW),
    (0, b"version https://git-lfs", LFS),
    (0, b"/annex/objects/", FileKind("a git-annex pointer, not the file itself", "git annex get")),
    (0, b"\x1f\x8b", FileKind("compressed by gzip", UNPACK)),
    (0, b"BZh", FileKind("compressed by bzip2", UNPACK)),
    (0, b"\xfd7zXZ\x00", FileKind("compressed by xz", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", FileKind("compressed by zstd", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", UNPACK)),
    (0, b"Rar!", FileKind("a rar archive", UNPACK)),
    (257, b"ustar", FileKind("a tar archive", UNPACK)),
    (0, b"GGUF", FileKind("a GGUF file of a language model")),
    (0, b"\x89PNG", FileKind("an image")),
    (0, b"\xff\xd8\xff", FileKind("an image")),
    (0, b"%PDF", FileKind("a PDF document")),
)


def identify(path: Path) -> FileKind:
    """Say what a file is, by its beginning. Raises what `open_regular` raises: OSError where there is none."""
    if (path / "saved_model.pb").is_file():
        return FileKind("a folder of TensorFlow", CONVERT)
    with open_regular(path) as file:
        head = file.read(min(HEAD, os.fstat(file.fileno()).st_size))
    if not head:
        return EMPTY
    if b"PK\x03\x04".startswith(head[:4]):
        return _identify_zip(path)
    for offset, signature, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        return PICKLE
    if 2 <= int.from_bytes(head[:8], "little") <= LARGEST_HEADER and head[8:9] == b"{":
        return SAFETENSORS
    return _identify_protobuf(head) or _identify_text(head) or _unknown(head)


def _identify_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError):
        return TORCH  # cut off or damaged, which its reader says
    inner = {name.partition("/")[2] for name in names}  # torch puts everything into one folder
    if any(name.startswith("code/") for name in inner):
        return TORCHSCRIPT
    if inner & {"archive_format", "models/model.json"} or "serialized_exported_program.json" in names:
        return EXPORTED
    if ".data/extern_modules" in inner:
        return FileKind("a torch.package archive, which holds code", TRUSTED.format("model.state_dict()"))
    if "data.pkl" in inner:
        return TORCH
    if "model.weights.h5" in names:
        return KERAS
    if names and all(PurePosixPath(name).suffix == ".npy" for name in names):
        return NUMPY
    return FileKind(f"a zip archive of {len(names)} files", UNPACK)


def _identify_protobuf(head: bytes) -> FileKind | None:
    """ONNX and TensorFlow have no signature, but their first fields are always the same ones."""
    if (
        head[:3] == b"\x08\x01\x12"
    ):  # the version of the schema, then a graph; ONNX never was in use with version 1
        return TENSORFLOW
    if head[0] == 0x08 and head[1:2] <= b"\x20" and head[2:3] in b"\x12\x1a\x22\x2a\x3a\x42":
        return ONNX
    graph = head[0] == 0x0A and any(node in head for node in (b"Placeholder", b"VarHandleOp", b"\x12\x05Const"))
    return TENSORFLOW if graph else None


def _identify_text(head: bytes) -> FileKind | None:
    try:
        text = head[: HEAD - 3].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    if text.lower().startswith(("<!doctype", "<html", "<?xml", "<head", "<!--")):
        return HTML
    if not text or any(ord(letter) < 32 and letter not in "\t\r\n\f\x1b" for letter in text):
        return None
    return FileKind(f"a text that begins with '{printable(text, 40)}'", "use another copy, or download it again")


def _unknown(head: bytes) -> FileKind:
    return FileKind(f"damaged or not a file of tensors (it begins with the bytes {head[:8].hex(' ')})")
