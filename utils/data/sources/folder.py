"""One's own images: `train/<class>/*` and `test/<class>/*`, decoded once and kept as one array."""

import hashlib
import os
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from utils.data.image_set import ImageSet
from utils.runtime.errors import UserError
from utils.runtime.files import DamagedFile, read_tensors, write_tensors

LAYOUT = "expected train/<class>/<image> and test/<class>/<image> under --data-dir"
DECODER = 1  # part of the key of a cache: raise it when the same files decode to other pixels
# What Pillow's decoders raise for damaged files; each format has its own habits.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, AttributeError, TypeError, LookupError, EOFError)
DECODER_ERRORS += (ArithmeticError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)
SHOWN = 20  # names of broken files in an error


@dataclass(frozen=True)
class Part:
    """The image files of `train/` or `test/`, sorted, with the class that each belongs to."""

    folder: Path
    files: list[Path]
    classes: list[str]  # of each file
    key: str  # changes when a file is added, removed or written

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.classes)))


def load(_name: str, data_dir: Path, image_size: int) -> tuple[ImageSet, ImageSet]:
    """Load both parts, each image resized to `image_size` pixels a side; classes are those of `train/`."""
    train, test = (_scan(data_dir / name, image_size) for name in ("train", "test"))
    unknown_args = sorted(set(test.class_names) - set(train.class_names))
    if unknown_args:
        raise UserError(f"{test.folder} has classes that {train.folder} lacks: {', '.join(unknown_args)}", LAYOUT)
    if len(train.class_names) < 2:
        raise UserError(f"{train.folder} has only one class: {train.class_names[0]}", "two or more are needed")
    number = {name: index for index, name in enumerate(train.class_names)}
    broken: list[str] = []
    pixels = [_pixels(part, image_size, broken) for part in (train, test)]
    if broken:
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        count = len(train.files) + len(test.files)
        what = f"{len(broken)} unreadable of {count} images: {', '.join(broken[:SHOWN])}{more}"
        raise UserError(what, "mend them or remove them")
    labels = [torch.tensor([number[name] for name in part.classes]) for part in (train, test)]
    train_set, test_set = (ImageSet(*both, train.class_names) for both in zip(pixels, labels, strict=True))
    return train_set, test_set


def _scan(folder: Path, image_size: int) -> Part:
    """List the images of a part. Hidden files and files without an image's ending are passed over."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", LAYOUT)
    kinds = Image.registered_extensions()  # which also fills Image.OPEN; .mpo is opened as the JPEG that it is
    endings = {ending for ending, kind in kinds.items() if kind in Image.OPEN} | {".mpo"}
    digest = hashlib.sha256(f"{DECODER} {image_size}".encode())
    files, classes, empty = [], [], []
    for class_dir in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        entries = sorted(os.scandir(class_dir), key=lambda entry: entry.name)
        entries = [
            e for e in entries if e.name[0] != "." and Path(e.name).suffix.lower() in endings and e.is_file()
        ]
        if not entries:
            empty.append(class_dir.name)
        for entry in entries:
            state = entry.stat()
            digest.update(os.fsencode(f"{class_dir.name}/{entry.name}\0{state.st_size}\0{state.st_mtime_ns}\0"))
            files.append(Path(entry.path))
            classes.append(class_dir.name)
    if empty:
        raise UserError(f"no images in {folder} for: {', '.join(empty)}", "add images or remove the empty folders")
    if not files:
        raise UserError(f"no images in {folder}", LAYOUT)
    return Part(folder, files, classes, digest.hexdigest())


def _pixels(part: Part, image_size: int, broken: list[str]) -> Tensor:
    """The images of a part, uint8 [N, image_size, image_size, 3], from the cache if that is current.

    Unreadable files are added to `broken`, each with the reason, and nothing is cached.
    """
    cache = part.folder.parent / f".{part.folder.name}-{image_size}px.pt"
    pixels = _read_cache(cache, part, image_size)
    if pixels is not None:
        return pixels
    pixels, unreadable = _decode(part, image_size)
    broken += unreadable
    if not unreadable:
        try:
            write_tensors(cache, {"key": part.key, "images": pixels})
        except OSError as error:
            print(f"warning: no image cache, every start decodes: {cache}: {error.strerror}", file=sys.stderr)
    return pixels


def _read_cache(cache: Path, part: Part, image_size: int) -> Tensor | None:
    """The cached images, memory-mapped, or None if there are none, files have changed or the cache is damaged."""
    if not cache.exists():
        return None
    shape = (len(part.files), image_size, image_size, 3)
    try:
        content = read_tensors(cache, mmap=True)
        if content.get("key") != part.key:
            return None
        pixels = content.get("images")
        if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.shape == shape:
            return pixels
    except DamagedFile:
        pass
    print(f"note: {cache} is damaged and is made again", file=sys.stderr)
    return None


def _decode(part: Part, image_size: int) -> tuple[Tensor, list[str]]:
    """Decode all images of a part in parallel: the pixels, and the unreadable files with their reasons."""
    pixels = torch.empty(len(part.files), image_size, image_size, 3, dtype=torch.uint8)
    target = pixels.numpy()

    def decode(index: int) -> str:
        try:
            target[index] = decode_image(part.files[index], image_size)
        except DECODER_ERRORS as error:
            return f"{part.files[index]} ({' '.join(str(error).split())})"
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
        results = pool.map(decode, range(len(part.files)))
        label, quiet = f"decoding {part.folder}", not sys.stderr.isatty()
        bar = tqdm(results, label, len(part.files), unit=" images", disable=quiet)
        return pixels, [problem for problem in bar if problem]


def decode_image(path: Path, size: int) -> np.ndarray:
    """Read any image that Pillow knows as uint8 [size, size, 3].

    Turned upright by its EXIF tag, transparent parts over white, 16-bit grey scaled to 8, cropped to its
    central square and resized. Raises one of `DECODER_ERRORS` for a file that is no whole image.
    """
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG of many megapixels decodes at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray(
                (np.asarray(image, dtype=np.float32) / 257).round().clip(0, 255).astype(np.uint8)
            )
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(image)
