import numpy as np
import pytest
from image_files import quadrants, ramp, save
from PIL import Image, features

from utils.data.sources.decode import decode_image


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


# How a camera that stands as the tag says stores an upright picture (EXIF 2.3, tag 274).
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
