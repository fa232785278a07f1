"""One image file as uint8 pixels: which endings are images, value ranges, huge images, silent decoders."""

import logging
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.runtime.errors import DamagedFile
from utils.runtime.regular_file import LARGEST_IMAGE, require_regular

DECODER = 2  # part of the key of a cached image: raise it when the same file decodes to other pixels
# What Pillow's decoders raise for damaged files; each format has its own habits.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, AttributeError, TypeError, LookupError, EOFError)
DECODER_ERRORS += (ArithmeticError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)
DECODER_ERRORS += (MemoryError, DamagedFile)

# What Pillow lists among its formats, but only names, plays or hands to another program.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# ending -> (the package that adds it to Pillow, its module)
EXTRAS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), ("pillow-heif", "pillow_heif")),
    **dict.fromkeys((".avif", ".avifs"), ("pillow-avif-plugin", "pillow_avif")),
    ".jxl": ("pillow-jxl-plugin", "pillow_jxl"),
}

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit makes a panorama an error; the two below replace it
MAX_PIXELS = 500_000_000  # after the reduction that JPEG offers: about 2 GB while it is decoded
LARGE_PIXELS = 50_000_000  # from here on, one image is decoded at a time
one_large_image = threading.Lock()

# The largest values of the usual depths: fractions, 8, 12, 16, 31 and 32 bits.
RANGES = (1, 2**8 - 1, 2**12 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
FLAT = 4  # grey levels; an image that spans no more is of one colour to the eye
FLAT_DEEP = 16  # levels that 12 bits span when only the upper 8 of 16 bits are read

# What `decode_image` does, in its order, for those who make the input of a network elsewhere.
STEPS = {
    "jpeg": "may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides are at least twice the input's",
    "orientation": "turned upright by the EXIF tag",
    "depth": "values of more than 8 bits: from 0 to the range that the file states, else to the first of 1, 255, "
    "4095, 65535, 2^31-1 and 2^32-1 that holds them all, becomes 0 to 255; to their largest where they use less "
    "than a sixteenth of it, from their smallest where some are negative",
    "transparency": "laid over white",
    "colour": "converted to RGB as Pillow does",
    "crop": "the largest square in the middle",
    "resize": "to the size of the input, bicubic with antialiasing, whose kernel reaches beyond the edges of the "
    "square (Pillow's ImageOps.fit with BICUBIC)",
}


@cache
def is_image(ending: str) -> bool:
    """Whether files of an ending (".jpg", lower case) are images that can be decoded here."""
    kind = Image.registered_extensions().get(ending)
    if kind is None and ending in EXTRAS:
        with suppress(ImportError, OSError, RuntimeError):  # not installed, or not for this system
            module = import_module(EXTRAS[ending][1])
            getattr(module, "register_heif_opener", lambda: None)()  # the others register when imported
        kind = Image.registered_extensions().get(ending)
    return ending == ".mpo" or (kind in Image.OPEN and kind not in NOT_IMAGES)  # .mpo is opened as a JPEG


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep warnings of Pillow and of the C libraries below it off the terminal; `sys.stderr` still reaches it.

    libtiff writes to file descriptor 2 itself, so that is what is silenced: for all threads, in this block only.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        with suppress(OSError, ValueError, AttributeError):  # no such descriptor: nothing to silence
            sys.stderr.flush()
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            stack.callback(os.dup2, terminal, 2)
            if sys.stderr.fileno() == 2:
                copy = stack.enter_context(os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, sys.stderr.errors))
                stack.enter_context(redirect_stderr(copy))
        with open(os.devnull, "wb") as nowhere, suppress(OSError):
            os.dup2(nowhere.fileno(), 2)
        yield


def decode_image(path: Path, size: int) -> np.ndarray:
    """Read any image that Pillow knows as uint8 [size, size, 3].

    Turned upright by its EXIF tag, transparent parts over white, deeper values scaled to 8 bits by `value_range`,
    cropped to its central square and resized. Raises one of `DECODER_ERRORS` for a file that is no whole image
    or of more than `MAX_PIXELS`.
    """
    with _open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG of many megapixels decodes at a fraction of its size
        count = image.width * image.height
        if count > MAX_PIXELS:
            limit = f"{MAX_PIXELS // 10**6} megapixels"
            raise ValueError(f"{image.width}x{image.height} pixels, more than the {limit} that are decoded")
        with one_large_image if count > LARGE_PIXELS else nullcontext():
            return _square(image, size)


def reason_of(error: Exception, path: Path) -> str:
    """Why the file could not be decoded, in words, from one of `DECODER_ERRORS`."""
    text = getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "")
    return " ".join(text.split()).rstrip(": ") or type(error).__name__


def _open(path: Path) -> Image.Image:
    require_regular(path, LARGEST_IMAGE)
    if path.stat().st_size == 0:  # as what is in /proc claims to be, some of which waits when it is read
        raise OSError(f"{str(path)!r} is empty")
    # By name, because a file's content decides over its ending: PostScript named .jpg would start a program.
    Image.init()
    return Image.open(path, formats=[kind for kind in Image.ID if kind not in NOT_IMAGES])


def _square(image: Image.Image, size: int) -> np.ndarray:
    deep = image.mode[0] in "IF"
    top, unsigned = _stated_range(image) if deep else (None, False)
    ImageOps.exif_transpose(image, in_place=True)
    if deep:
        values = np.asarray(image)
        image = Image.fromarray(_to_8_bits(values.view(np.uint32) if unsigned else values, top))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _stated_range(image: Image.Image) -> tuple[int | None, bool]:
    """What the format says of deep values: the largest one or None, and whether 32 bits are unsigned."""
    if image.format == "PPM" and image.mode == "I":
        return 2**16 - 1, False  # Pillow has scaled by the maximum in the header
    if image.format != "TIFF" or image.mode == "F":
        return None, False
    tags = image.tag_v2
    bits, kind, top = (
        value[0] if isinstance(value, tuple) else value
        for value in (tags.get(258, 16), tags.get(339, 1), tags.get(281) or tags.get(341))
    )
    # The default, all bits, is also written where nobody thought of it.
    stated = top if isinstance(top, int) and 0 < top < 2**bits - 1 else None
    return stated, bits == 32 and kind == 1 and image.mode == "I"


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The values, of integers or floats, that are black and white.

    0 to the smallest of `RANGES` that holds them all, which floats may exceed a little by rounding and ringing.
    Where they use less than a sixteenth of it, or some are negative: their own largest (and smallest).
    """
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return (-1, 1) if values.dtype.kind == "f" and low >= -1 and high <= 1 else (low, high)
    slack = 1.05 if values.dtype.kind == "f" else 1
    top = next((top for top in RANGES if high <= top * slack), high)
    return 0, top if high > top / 16 else high


def _to_8_bits(values: np.ndarray, top: float | None) -> np.ndarray:
    """Integers or floats [H, W] as uint8; `top` is the value of white where the format says one."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise ValueError("holds no finite value")
    low, high = value_range(finite)
    if top is not None and low == 0 and finite.max() <= top:
        high = top
    scaled = (values.astype(np.float32) - low) * (255 / (high - low or 1))
    return np.nan_to_num(scaled, nan=0).round().clip(0, 255).astype(np.uint8)


def is_flattened(path: Path, pixels: np.ndarray) -> bool:
    """Whether decoding left (nearly) one colour of a file that has more: uint8 `pixels` are what it decoded to."""
    span = np.ptp(pixels.reshape(-1, 3), axis=0).max()
    if span > FLAT_DEEP:
        return False
    with _open(path) as image:
        deep = image.mode[0] in "IF" or ";16" in str(image.tile)
        if image.width * image.height > LARGE_PIXELS or span > (FLAT_DEEP if deep else FLAT):
            return False
        values = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    values = values.reshape(values.shape[0] * values.shape[1], -1)
    values = values[np.isfinite(values).all(1)]
    return bool(len(values)) and float(np.ptp(values, axis=0).max()) > (0 if deep else 64)
