import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from utils.data.image_set import ImageSet
from utils.data.sources import folder, load_images
from utils.runtime import files as storage
from utils.runtime.errors import UserError

# --- a folder of one's own images -------------------------------------------------------------------


def quadrants(size: int = 32) -> np.ndarray:
    """uint8 [size, size, 3]: red, green; blue, grey."""
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    half = size // 2
    pixels[:half, :half], pixels[:half, half:] = (220, 30, 20), (10, 200, 40)
    pixels[half:, :half], pixels[half:, half:] = (30, 20, 210), (90, 90, 90)
    return pixels


def ramp() -> np.ndarray:
    """Every grey level four times, uint8 [32, 32]."""
    return (np.arange(1024) % 256).astype(np.uint8).reshape(32, 32)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def solid(*colour: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def make_tree(root: Path) -> Path:
    """Two classes of three training images and a test image each; each image has a colour of its own."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(3):
            save(root / "train" / name / f"{index}.png", solid(100 * number, 20 * index, 7))
        save(root / "test" / name / "0.png", solid(100 * number, 90, 200))
    return root


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    return make_tree(tmp_path / "images")


def load(root: Path, size: int = 32) -> tuple[ImageSet, ImageSet]:
    return load_images("folder", root, size)


def load_fresh(root: Path, size: int = 32) -> tuple[ImageSet, ImageSet]:
    """What the images of `root` are without any cache."""
    copy = root.with_name(f"{root.name}-{time.monotonic_ns()}")
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*"))
    return load(copy, size)


def same(one: tuple[ImageSet, ImageSet], other: tuple[ImageSet, ImageSet]) -> bool:
    return [part.fingerprint() for part in one] == [part.fingerprint() for part in other]


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_a_folder_s_images_come_sorted_with_the_classes_of_train_numbered_by_name(tmp_path):
    for name, red in (("b", 10), ("a", 20), ("c", 30)):
        for index in (2, 0, 1):
            save(tmp_path / "train" / name / f"{index}.png", solid(red, index, 0))
    save(tmp_path / "test" / "c" / "x.png", solid(1, 2, 3))
    save(tmp_path / "test" / "b" / "x.png", solid(4, 5, 6))
    train, test = load(tmp_path, 48)
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [1, 2]
    assert train.images.shape == (9, 48, 48, 3)
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert train.images[:, 0, 0, 0].tolist() == [20] * 3 + [10] * 3 + [30] * 3
    assert train.images[:, 0, 0, 1].tolist() == [0, 1, 2] * 3
    assert test.images[:, 47, 47].tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "tif", "ppm", "PNG"])
def test_lossless_formats_are_read_pixel_for_pixel(tmp_path, ending):
    path = save(tmp_path / f"x.{ending}", quadrants())
    np.testing.assert_array_equal(folder.decode_image(path, 32), quadrants())


@pytest.mark.skipif(not features.check("webp"), reason="Pillow was built without WebP")
def test_webp_is_read_pixel_for_pixel(tmp_path):
    path = save(tmp_path / "x.webp", quadrants(), lossless=True)
    np.testing.assert_array_equal(folder.decode_image(path, 32), quadrants())


def test_grey_images_have_three_equal_channels(tmp_path):
    grey = ramp()
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(folder.decode_image(save(tmp_path / "x.png", grey), 32), expected)
    np.testing.assert_array_equal(folder.decode_image(save(tmp_path / "x.bmp", grey), 32), expected)


def test_black_and_white_images_are_0_and_255(tmp_path):
    bits = np.indices((32, 32)).sum(0) % 2 == 0
    expected = np.repeat(bits[..., None] * np.uint8(255), 3, axis=2)
    np.testing.assert_array_equal(folder.decode_image(save(tmp_path / "x.png", bits), 32), expected)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, ending):
    deep = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    decoded = folder.decode_image(save(tmp_path / f"x.{ending}", deep), 32)
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded, np.repeat(deep[..., None] / 257, 3, axis=2), atol=1)
    assert (decoded[0, 0] == 0).all()
    assert (decoded[31, 31] == 255).all()


def test_transparent_parts_lie_over_white(tmp_path):
    rgba = np.dstack([quadrants(), ramp()])
    for name in ("x.png", "x.tiff"):
        decoded = folder.decode_image(save(tmp_path / name, rgba), 32)
        np.testing.assert_allclose(decoded, over_white(rgba), atol=1)


def test_transparent_grey_lies_over_white(tmp_path):
    grey, alpha = np.full((32, 32), 40, np.uint8), ramp()
    path = save(tmp_path / "x.png", Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]))
    expected = over_white(np.dstack([grey, grey, grey, alpha]))
    np.testing.assert_allclose(folder.decode_image(path, 32), expected, atol=1)


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
    np.testing.assert_array_equal(folder.decode_image(path, 32), quadrants())


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_the_transparent_colour_of_a_palette_is_white(tmp_path, ending):
    path = save(tmp_path / f"x.{ending}", palette_image(), transparency=1)
    expected = quadrants()
    expected[:16, 16:] = 255
    np.testing.assert_array_equal(folder.decode_image(path, 32), expected)


def test_half_transparent_colours_of_a_palette_lie_over_white(tmp_path):
    path = save(tmp_path / "x.png", palette_image(), transparency=bytes([0, 64, 128, 255]))
    alpha = np.kron(np.array([[0, 64], [128, 255]], np.uint8), np.ones((16, 16), np.uint8))
    expected = over_white(np.dstack([quadrants(), alpha]))
    np.testing.assert_allclose(folder.decode_image(path, 32), expected, atol=1)


def test_the_transparent_colour_of_an_rgb_image_is_white(tmp_path):
    path = save(tmp_path / "x.png", quadrants(), transparency=(90, 90, 90))
    expected = quadrants()
    expected[16:, 16:] = 255
    np.testing.assert_array_equal(folder.decode_image(path, 32), expected)


def test_an_animation_is_its_first_frame(tmp_path):
    path = save(tmp_path / "x.gif", palette_image(), save_all=True, append_images=[palette_image().rotate(90)])
    np.testing.assert_array_equal(folder.decode_image(path, 32), quadrants())


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
    decoded = folder.decode_image(save(tmp_path / "x.jpg", stored, quality=95, exif=exif), 32)
    for row, column in ((8, 8), (8, 24), (24, 8), (24, 24)):
        np.testing.assert_allclose(decoded[row, column].astype(int), quadrants()[row, column].astype(int), atol=6)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photographs_become_rgb(tmp_path, mode):
    image = Image.fromarray(quadrants()).convert(mode)
    decoded = folder.decode_image(save(tmp_path / "x.jpg", image, quality=95), 32)
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
    decoded = folder.decode_image(save(tmp_path / "x.png", pixels), 32)
    assert decoded.shape == (32, 32, 3)
    assert (decoded[2:-2, 2:-2] == (0, 0, 255)).all()


def test_images_of_different_sizes_and_formats_share_a_class(tmp_path):
    make_tree(tmp_path)
    save(tmp_path / "train" / "cat" / "3.jpg", solid(200, 100, 50, size=(500, 300)))
    save(tmp_path / "train" / "cat" / "4.BMP", solid(200, 100, 50, size=(5, 9)))
    save(tmp_path / "train" / "cat" / "5.gif", solid(200, 100, 50, size=(32, 32)).quantize())
    train, _ = load(tmp_path)
    assert train.labels.bincount().tolist() == [6, 3]
    assert (train.images[3:6].int() - torch.tensor([200, 100, 50])).abs().max() <= 3


def test_class_names_may_hold_spaces_quotes_and_any_letters(tmp_path):
    names = ("two words", "Käfer", "猫", "it's", "100%", "a#b")
    for part in ("train", "test"):
        for red, name in enumerate(names):
            save(tmp_path / part / name / "ein Bild é.png", solid(red, 0, 0))
    for _ in range(2):
        train, test = load(tmp_path)
        assert train.class_names == tuple(sorted(names))
        assert [train.class_names[label] for label in train.labels] == sorted(names)
        assert train.images[:, 0, 0, 0].tolist() == [names.index(name) for name in sorted(names)]
        assert torch.equal(train.images, test.images)


def test_file_names_that_are_not_utf_8_are_read(tree):
    path = os.fsencode(tree / "train" / "cat") + b"/caf\xe9.png"
    try:
        shutil.copy(tree / "train" / "cat" / "0.png", path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(load(tree)[0]) == 7


def test_hidden_files_and_files_that_are_no_images_are_passed_over(tree):
    expected = load_fresh(tree)
    cat = tree / "train" / "cat"
    for name in (".DS_Store", ".hidden.png", "Thumbs.db", "notes.txt", "labels.csv", "png", "archive.zip"):
        (cat / name).write_bytes(b"not an image")
    (cat / "more.png").mkdir()
    (tree / "train" / "readme.png").write_bytes(b"not an image")
    (tree / "train" / ".git").mkdir()
    (tree / "notes.png").write_bytes(b"not an image")
    assert same(load(tree), expected)


def broken_files(tree: Path) -> list[Path]:
    """Five kinds of damage in both classes and both parts, beside images that are whole."""
    cat, dog = tree / "train" / "cat", tree / "train" / "dog"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg, png = save(tree / "whole.jpg", noise).read_bytes(), save(tree / "whole.png", noise).read_bytes()
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    content = {
        cat / "cut.jpg": jpeg[: len(jpeg) // 2],
        cat / "cut.png": png[: len(png) // 2],
        cat / "text.jpg": b"hello, I am no image\n",
        tree / "test" / "dog" / "empty.png": b"",
        dog / "flipped.png": bytes(flipped),
    }
    for path, data in content.items():
        path.write_bytes(data)
    return list(content)


def test_all_unreadable_images_are_named_at_once(tree):
    broken = broken_files(tree)
    with pytest.raises(UserError) as raised:
        load(tree)
    text = str(raised.value)
    assert text.startswith("5 unreadable of 13 images: ")
    assert all(str(path) in text for path in broken)
    assert not any(str(tree / "train" / name / "0.png") in text for name in ("cat", "dog"))
    assert raised.value.hint
    assert "\n" not in text


def test_a_folder_can_be_loaded_once_its_broken_images_are_removed(tree):
    expected = load_fresh(tree)
    broken = broken_files(tree)
    with pytest.raises(UserError, match="unreadable"):
        load(tree)
    for path in broken:
        path.unlink()
    assert same(load(tree), expected)


def test_of_very_many_unreadable_images_the_first_are_named_and_the_rest_counted(tree):
    for index in range(23):
        (tree / "train" / "dog" / f"bad{index:02}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"23 unreadable of 31 images: .*bad19\.png.* and 3 more") as raised:
        load(tree)
    assert "bad20" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError("bad"),
        SyntaxError("bad"),
        ValueError("bad"),
        EOFError("bad"),
        RuntimeError("bad"),
        IndexError("bad"),
        AttributeError("bad"),
        Image.DecompressionBombError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_the_file_is_named(tree, monkeypatch, error):
    decode = folder.decode_image

    def fail_on_one(path: Path, size: int) -> np.ndarray:
        if path.name == "1.png":
            raise error
        return decode(path, size)

    monkeypatch.setattr(folder, "decode_image", fail_on_one)
    with pytest.raises(UserError, match=r"2 unreadable of 8 images: .*cat.1\.png \(bad\), .*dog.1\.png \(bad\)"):
        load(tree)


def test_a_class_of_test_that_train_lacks_is_refused(tree):
    save(tree / "test" / "horse" / "0.png", solid(1, 2, 3))
    with pytest.raises(UserError, match=r"test has classes that .*train lacks: horse"):
        load(tree)


def test_a_class_that_test_lacks_is_no_error(tree):
    shutil.rmtree(tree / "test" / "cat")
    assert load(tree)[1].labels.tolist() == [1]


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_named(tree, part):
    (tree / part / "bird").mkdir()
    (tree / part / "fish").mkdir()
    (tree / part / "fish" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=f"no images in .*{part} for: bird, fish"):
        load(tree)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_classes_is_named_with_the_expected_layout(tree, part):
    shutil.rmtree(tree / part)
    (tree / part).mkdir()
    with pytest.raises(UserError, match=f"no images in .*{part} .*train/<class>/<image>"):
        load(tree)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_that_is_missing_is_named_with_the_expected_layout(tree, part):
    shutil.rmtree(tree / part)
    with pytest.raises(UserError, match=f"no folder .*{part} .*train/<class>/<image>"):
        load(tree)


def test_a_data_folder_that_is_missing_is_named_and_not_made(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_single_class_is_refused(tree):
    shutil.rmtree(tree / "train" / "dog")
    shutil.rmtree(tree / "test" / "dog")
    with pytest.raises(UserError, match="only one class: cat"):
        load(tree)


# --- the cache of decoded images --------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as they are."""
    names, decode = [], folder.decode_image

    def counted(path: Path, size: int) -> np.ndarray:
        names.append(f"{path.parent.parent.name}/{path.parent.name}/{path.name}")
        return decode(path, size)

    monkeypatch.setattr(folder, "decode_image", counted)
    return names


def caches(tree: Path) -> set[str]:
    return {path.name for path in tree.iterdir() if path.is_file()}


def test_a_second_load_decodes_nothing_and_gives_the_same(tree, decoded):
    first = load(tree)
    assert len(decoded) == 8
    decoded.clear()
    assert same(load(tree), first)
    assert decoded == []


def add(tree: Path) -> None:
    save(tree / "train" / "cat" / "9.png", solid(1, 2, 3))


def change(tree: Path) -> None:
    """Other pixels in a file of the same name and size."""
    path = tree / "train" / "cat" / "1.png"
    size, written = path.stat().st_size, path.stat().st_mtime_ns
    save(path, solid(100, 100, 100))
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    os.utime(path, ns=(written, written + 1_000_000))


def grow(tree: Path) -> None:
    """Other pixels in a file of the same name and time."""
    path = tree / "train" / "cat" / "1.png"
    written = path.stat().st_mtime_ns
    save(path, np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    os.utime(path, ns=(written, written))


def remove(tree: Path) -> None:
    (tree / "train" / "cat" / "1.png").unlink()


def rename(tree: Path) -> None:
    (tree / "train" / "cat" / "1.png").rename(tree / "train" / "cat" / "3.png")


def move_to_another_class(tree: Path) -> None:
    (tree / "train" / "cat" / "2.png").rename(tree / "train" / "dog" / "3.png")


def rename_class(tree: Path) -> None:
    for part in ("train", "test"):
        (tree / part / "cat").rename(tree / part / "zebra")


@pytest.mark.parametrize("step", [add, change, grow, remove, rename, move_to_another_class, rename_class])
def test_a_cache_is_made_again_when_files_change(tree, decoded, capsys, step):
    before = load(tree)
    step(tree)
    after = load(tree)
    assert not same(after, before)
    assert same(after, load_fresh(tree))
    decoded.clear()
    assert same(load(tree), after)
    assert decoded == []
    assert capsys.readouterr().err == ""


def test_a_change_of_one_part_leaves_the_cache_of_the_other_alone(tree, decoded):
    load(tree)
    decoded.clear()
    save(tree / "test" / "cat" / "1.png", solid(1, 2, 3))
    load(tree)
    assert sorted(decoded) == ["test/cat/0.png", "test/cat/1.png", "test/dog/0.png"]


def test_each_image_size_has_a_cache_of_its_own_with_the_size_in_its_name(tree, decoded):
    small, large = load(tree, 32), load(tree, 48)
    assert small[0].images.shape[1:3] == (32, 32)
    assert large[0].images.shape[1:3] == (48, 48)
    assert sorted(decoded) == sorted(2 * decoded[:8])
    assert len(caches(tree)) == 4
    for name in ("train-32px", "train-48px", "test-32px", "test-48px"):
        assert sum(name in cache for cache in caches(tree)) == 1
    decoded.clear()
    assert same(load(tree, 32), small)
    assert same(load(tree, 48), large)
    assert decoded == []


def the_cache(tree: Path) -> Path:
    (path,) = (tree / name for name in caches(tree) if "train" in name)
    return path


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_cache_is_made_again_with_a_note(tree, decoded, capsys, keep):
    first = load(tree)
    cache = the_cache(tree)
    cache.write_bytes(cache.read_bytes()[: int(keep * cache.stat().st_size)])
    decoded.clear()
    assert same(load(tree), first)
    assert len(decoded) == 6
    assert f"note: {cache} is damaged and is made again" in capsys.readouterr().err
    decoded.clear()
    assert same(load(tree), first)
    assert decoded == []


def test_a_cache_with_one_wrong_bit_in_its_pixels_is_made_again_with_a_note(tree, capsys):
    first = load(tree)
    cache = the_cache(tree)
    whole = bytearray(cache.read_bytes())
    pixels = first[0].images.numpy().tobytes()
    start = whole.index(pixels)
    for place in (0, len(pixels) // 2, len(pixels) - 1):
        damaged = bytearray(whole)
        damaged[start + place] ^= 1
        cache.write_bytes(damaged)
        assert same(load(tree), first)
        assert f"note: {cache} is damaged" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_wrong_byte_anywhere_in_a_cache_gives_an_error_or_other_images(tree):
    first = load(tree)
    cache = the_cache(tree)
    whole = cache.read_bytes()
    pixels = first[0].images.numpy().tobytes()
    start = whole.index(pixels)
    for place in (*range(0, start, 5), *range(start + len(pixels), len(whole), 5)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        cache.write_bytes(damaged)
        assert same(load(tree), first), place


def test_a_cache_of_something_else_is_made_again_with_a_note(tree, capsys):
    first = load(tree)
    cache = the_cache(tree)
    content = torch.load(cache, weights_only=True)
    images = content["images"].clone()
    for wrong in (
        [1, 2],
        content | {"images": images[:5], "sha256": storage.sha256_of({"images": images[:5]})},
        content | {"images": images.float(), "sha256": storage.sha256_of({"images": images.float()})},
        content | {"images": images.flip(0)},
        {"key": content["key"]},
    ):
        torch.save(wrong, cache)
        assert same(load(tree), first)
        assert f"note: {cache} is damaged" in capsys.readouterr().err


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_cache_that_would_run_code_runs_none_and_is_made_again(tree, capsys):
    first = load(tree)
    cache, sprung = the_cache(tree), tree / "sprung"
    torch.save({"key": Trap(sprung)}, cache)
    assert same(load(tree), first)
    assert not sprung.exists()
    assert f"note: {cache} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_data_folder_that_cannot_be_written_works_with_a_warning(tree, monkeypatch, capsys, decoded, number):
    expected = load_fresh(tree)

    def refuse(path, _mode):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(storage, "open", refuse, raising=False)
    for _ in range(2):
        decoded.clear()
        assert same(load(tree), expected)
        assert len(decoded) == 8
        warnings = capsys.readouterr().err.splitlines()
        assert [line.startswith("warning: no image cache") for line in warnings] == [True, True]
        assert all(os.strerror(number) in line for line in warnings)
    assert caches(tree) == set()


def test_a_disk_that_fills_up_costs_the_cache_only_and_leaves_no_rest(tree, capsys):
    resource = pytest.importorskip("resource", reason="file size limits are a matter of Unix")
    expected = load_fresh(tree, 128)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        assert same(load(tree, 128), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err.count("warning: no image cache") == 2
    assert caches(tree) == set()
