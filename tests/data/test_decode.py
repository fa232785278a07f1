import logging
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import quadrants, ramp, save, solid
from PIL import Image, features

from utils.data.sources import decode
from utils.data.sources.decode import STEPS, decode_image, is_flattened, quiet_decoders

ROOT = Path(__file__).parents[2]


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "tif", "ppm", "PNG"])
def test_lossless_formats_are_read_pixel_for_pixel(tmp_path, ending):
    path = save(tmp_path / f"x.{ending}", quadrants())
    np.testing.assert_array_equal(decode_image(path, 32), quadrants())


@pytest.mark.skipif(not features.check("webp"), reason="Pillow was built without WebP")
def test_webp_is_read_pixel_for_pixel(tmp_path):
    path = save(tmp_path / "x.webp", quadrants(), lossless=True)
    np.testing.assert_array_equal(decode_image(path, 32), quadrants())


def test_grey_images_have_three_equal_channels(tmp_path):
    grey = ramp()
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "x.png", grey), 32), expected)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "x.bmp", grey), 32), expected)


def test_black_and_white_images_are_0_and_255(tmp_path):
    bits = np.indices((32, 32)).sum(0) % 2 == 0
    expected = np.repeat(bits[..., None] * np.uint8(255), 3, axis=2)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "x.png", bits), 32), expected)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, ending):
    deep = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    decoded = decode_image(save(tmp_path / f"x.{ending}", deep), 32)
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded, np.repeat(deep[..., None] / 257, 3, axis=2), atol=1)
    assert (decoded[0, 0] == 0).all()
    assert (decoded[31, 31] == 255).all()


def test_transparent_parts_lie_over_white(tmp_path):
    rgba = np.dstack([quadrants(), ramp()])
    for name in ("x.png", "x.tiff"):
        decoded = decode_image(save(tmp_path / name, rgba), 32)
        np.testing.assert_allclose(decoded, over_white(rgba), atol=1)


def test_transparent_grey_lies_over_white(tmp_path):
    grey, alpha = np.full((32, 32), 40, np.uint8), ramp()
    path = save(tmp_path / "x.png", Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]))
    expected = over_white(np.dstack([grey, grey, grey, alpha]))
    np.testing.assert_allclose(decode_image(path, 32), expected, atol=1)


def palette_image() -> Image.Image:
    """The quadrants as a palette of four colours, in reading order."""
    colours = quadrants()[[0, 0, 31, 31], [0, 31, 0, 31]]
    indices = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((16, 16), np.uint8))
    image = Image.fromarray(indices).convert("L")
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("ending", ["png", "gif", "bmp", "tiff"])
def test_palettes_are_resolved(tmp_path, ending):
    path = save(tmp_path / f"x.{ending}", palette_image())
    np.testing.assert_array_equal(decode_image(path, 32), quadrants())


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_the_transparent_colour_of_a_palette_is_white(tmp_path, ending):
    path = save(tmp_path / f"x.{ending}", palette_image(), transparency=1)
    expected = quadrants()
    expected[:16, 16:] = 255
    np.testing.assert_array_equal(decode_image(path, 32), expected)


def test_half_transparent_colours_of_a_palette_lie_over_white(tmp_path):
    path = save(tmp_path / "x.png", palette_image(), transparency=bytes([0, 64, 128, 255]))
    alpha = np.kron(np.array([[0, 64], [128, 255]], np.uint8), np.ones((16, 16), np.uint8))
    expected = over_white(np.dstack([quadrants(), alpha]))
    np.testing.assert_allclose(decode_image(path, 32), expected, atol=1)


def test_the_transparent_colour_of_an_rgb_image_is_white(tmp_path):
    path = save(tmp_path / "x.png", quadrants(), transparency=(90, 90, 90))
    expected = quadrants()
    expected[16:, 16:] = 255
    np.testing.assert_array_equal(decode_image(path, 32), expected)


def test_an_animation_is_its_first_frame(tmp_path):
    path = save(tmp_path / "x.gif", palette_image(), save_all=True, append_images=[palette_image().rotate(90)])
    np.testing.assert_array_equal(decode_image(path, 32), quadrants())


# How a camera that stands as the tag says stores an upright image (EXIF 2.3, tag 274).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("size", [32, 512])
def test_a_photograph_is_turned_upright_by_its_exif_orientation(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(STORED[orientation](quadrants(size)))
    decoded = decode_image(save(tmp_path / "x.jpg", stored, quality=95, exif=exif), 32)
    for row, column in ((8, 8), (8, 24), (24, 8), (24, 24)):
        np.testing.assert_allclose(decoded[row, column].astype(int), quadrants()[row, column].astype(int), atol=6)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photographs_become_rgb(tmp_path, mode):
    image = Image.fromarray(quadrants()).convert(mode)
    decoded = decode_image(save(tmp_path / "x.jpg", image, quality=95), 32)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(decoded[8, 8].astype(int), expected[8, 8].astype(int), atol=6)
    np.testing.assert_allclose(decoded[24, 24].astype(int), expected[24, 24].astype(int), atol=6)


def test_who_follows_the_steps_one_by_one_arrives_at_the_same_pixels(tmp_path):
    assert [*STEPS] == ["jpeg", "orientation", "depth", "transparency", "colour", "crop", "resize"]
    rgba = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    path = save(tmp_path / "x.png", Image.fromarray(rgba), exif=exif)
    pixels = over_white(np.rot90(rgba, -1)).round().astype(np.uint8)  # [70, 90, 3]
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC, box=(10, 0, 80, 70))
    np.testing.assert_allclose(decode_image(path, 32).astype(int), np.asarray(expected).astype(int), atol=1)


@pytest.mark.parametrize("size", [(80, 40), (40, 80), (300, 40), (41, 40), (1, 1)])
def test_an_image_is_cropped_to_its_central_square(tmp_path, size):
    width, height = size
    side = min(size)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = (0, 0, 255)
    decoded = decode_image(save(tmp_path / "x.png", pixels), 32)
    assert decoded.shape == (32, 32, 3)
    assert (decoded[2:-2, 2:-2] == (0, 0, 255)).all()


def fractions() -> np.ndarray:
    """float32 [32, 32], from 0 to 1."""
    return np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)


def assert_is_ramp(path: Path, scale: float = 1.0) -> None:
    """The grey levels of `fractions() * scale`."""
    expected = np.repeat(fractions()[..., None] * 255.0 * scale, 3, axis=2)
    np.testing.assert_allclose(decode_image(path, 32), expected, atol=1.01)


@pytest.mark.parametrize("ending", ["tiff", "pfm"])
@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 3.7])
def test_float_images_are_scaled_by_the_range_of_their_values(tmp_path, ending, top):
    path = save(tmp_path / f"x.{ending}", Image.fromarray(fractions() * np.float32(top)))
    assert_is_ramp(path)


def test_floats_that_exceed_1_a_little_are_clipped(tmp_path):
    expected = (fractions() * 1.02).clip(max=1) * 255
    decoded = decode_image(save(tmp_path / "x.tiff", Image.fromarray(fractions() * np.float32(1.02))), 32)
    np.testing.assert_allclose(decoded[..., 0], expected, atol=1.01)


def test_a_dark_float_image_stays_dark(tmp_path):
    assert_is_ramp(save(tmp_path / "x.tiff", Image.fromarray(fractions() / 4)), 0.25)


def test_floats_from_minus_1_to_1_have_0_in_the_middle(tmp_path):
    for scale in (1.0, 0.5):
        pixels = Image.fromarray((fractions() * 2 - 1) * np.float32(scale))
        expected = ((fractions() * 2 - 1) * scale + 1) * 127.5
        decoded = decode_image(save(tmp_path / "x.tiff", pixels), 32)
        np.testing.assert_allclose(decoded[..., 0], expected, atol=1.01)


def test_what_is_not_finite_in_a_float_image_does_not_blacken_the_rest(tmp_path):
    pixels = fractions()
    pixels[0, :3] = (np.nan, np.inf, -np.inf)
    decoded = decode_image(save(tmp_path / "x.tiff", Image.fromarray(pixels)), 32)[..., 0]
    np.testing.assert_allclose(decoded[1:], fractions()[1:] * 255, atol=1.01)
    assert decoded[0, :3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_8_and_12_bits_in_16_are_scaled_by_their_depth(tmp_path, ending, top):
    values = (fractions() * top).round().astype(np.uint16)
    assert_is_ramp(save(tmp_path / f"x.{ending}", values))


def test_a_dark_12_bit_image_stays_dark(tmp_path):
    assert_is_ramp(save(tmp_path / "x.png", (fractions() * 1023).round().astype(np.uint16)), 1023 / 4095)


def test_the_largest_value_that_a_tiff_states_is_its_white(tmp_path):
    values = (fractions() * 500).round().astype(np.uint16)
    assert_is_ramp(save(tmp_path / "x.tiff", values, tiffinfo={281: 1000}), 0.5)
    assert_is_ramp(save(tmp_path / "y.tiff", values * 8, tiffinfo={281: 65535}), 4000 / 4095)  # the default


def test_the_maximum_in_the_header_of_a_pgm_is_its_white(tmp_path):
    values = (fractions() * 40).round().astype(">u2")
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 32 32 1000\n" + values.tobytes())
    expected = (fractions() * 40).round() / 1000 * 255  # as dark as it is
    np.testing.assert_allclose(decode_image(path, 32)[..., 0], expected, atol=1.01)


def tiff(path: Path, values: np.ndarray, sample_format: int) -> Path:
    """An uncompressed grey TIFF 6.0 of any integers: header, pixels, directory."""
    data, (height, width) = values.tobytes(), values.shape
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory
    path.write_bytes(content + bytes(4))
    return path


@pytest.mark.parametrize("top", [255, 4095, 65535, 10**6, 2**31 - 1])
def test_32_bit_integers_are_scaled_by_the_range_of_their_values(tmp_path, top):
    values = (fractions().astype(np.float64) * top).astype("<i4")
    assert_is_ramp(tiff(tmp_path / "x.tif", values, sample_format=2))


def test_unsigned_32_bit_integers_do_not_wrap(tmp_path):
    values = (fractions().astype(np.float64) * (2**32 - 1)).astype("<u4")
    assert_is_ramp(tiff(tmp_path / "x.tif", values, sample_format=1))


def test_negative_integers_are_scaled_from_their_smallest_to_their_largest(tmp_path):
    values = (fractions() * 4000 - 1000).astype("<i2")
    assert_is_ramp(tiff(tmp_path / "x.tif", values, sample_format=2))


def png_of_16_bit_rgb(path: Path, pixels: np.ndarray) -> Path:
    """A PNG as its specification (third edition, 5 and 11) says; pixels uint16 [H, W, 3]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def flattened(path: Path) -> bool:
    return is_flattened(path, decode_image(path, 32))


def test_an_image_that_becomes_one_colour_although_its_file_has_more_is_recognised(tmp_path):
    twelve_bits = np.repeat((fractions()[..., None] * 4095).astype(np.uint16), 3, axis=2)
    hot = np.full((32, 32), 500, np.uint16) + (fractions() * 300).astype(np.uint16)
    hot[3, 3] = 65535
    drawing = np.full((32, 32, 4), 255, np.uint8)
    drawing[8:20, 8:20, 3] = 0
    assert flattened(png_of_16_bit_rgb(tmp_path / "rgb.png", twelve_bits))
    assert flattened(save(tmp_path / "white on nothing.png", drawing))
    assert not flattened(png_of_16_bit_rgb(tmp_path / "all.png", twelve_bits * 16))
    assert not flattened(save(tmp_path / "hot.png", hot))  # one pixel is another colour
    margins = np.zeros((32, 96), np.uint8)
    margins[:, :20] = 200
    assert flattened(save(tmp_path / "beside the square.png", margins))


def test_an_image_whose_file_is_of_one_colour_too_is_none_of_these(tmp_path):
    night = np.random.default_rng(0).integers(0, 4, (32, 32, 3), dtype=np.uint8)
    assert not flattened(save(tmp_path / "x.png", solid(7, 8, 9)))
    assert not flattened(save(tmp_path / "x.jpg", solid(7, 8, 9)))
    assert not flattened(save(tmp_path / "night.png", night))
    assert not flattened(save(tmp_path / "deep.png", np.full((32, 32), 700, np.uint16)))
    palette = Image.fromarray(np.eye(32, dtype=np.uint8) * 200)  # of two indices that are the same colour
    palette.putpalette([7, 8, 9] * 256)
    assert not flattened(save(tmp_path / "palette.png", palette))


def test_an_image_beyond_pillow_s_limit_of_pixels_is_decoded(tmp_path):
    image = Image.new("L", (13_500, 13_500), 90)  # 182 megapixels, where Pillow's own limit is an error
    image.paste(200, (0, 0, 13_500, 6_750))
    decoded = decode_image(save(tmp_path / "x.jpg", image), 32)
    np.testing.assert_allclose(decoded[[2, 29], 5, 0], [200, 90], atol=2)


def test_an_image_that_is_too_large_is_said_to_be_that(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 5_000_000)
    path = save(tmp_path / "x.png", solid(1, 2, 3, size=(3000, 2000)))
    with pytest.raises(ValueError, match="3000x2000 pixels, more than the 5 megapixels"):
        decode_image(path, 32)
    jpeg = save(tmp_path / "x.jpg", solid(1, 2, 3, size=(3000, 2000)))
    assert decode_image(jpeg, 32).shape == (32, 32, 3)  # which is reduced while it is decoded


def test_decoders_are_silent_and_the_program_is_not(capfd):
    with quiet_decoders():
        os.write(2, b"libtiff: a warning\n")
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
        print("a progress bar", file=sys.stderr)
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "a progress bar\nafter it\n"


def test_a_real_terminal_s_stderr_is_silent_only_for_decoders():
    code = """
import logging, os, sys, warnings
from utils.data.sources.decode import quiet_decoders
with quiet_decoders():
    os.write(2, b"libtiff\\n"); logging.getLogger("PIL.TiffImagePlugin").error("Pillow")
    warnings.warn("Pillow"); print("bar", file=sys.stderr)
print("end", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "bar\nend\n"


def test_a_program_that_calls_itself_jpg_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(path, 32)
