import errno
import hashlib
import io
import os
import pickle
import shutil
import socket
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, features

from utils.data.batches import Batches, Normalise
from utils.data.image_set import ImageSet
from utils.data.sources import cifar, folder, load_images, shapes
from utils.runtime import files as storage
from utils.runtime.errors import UserError

# --- shapes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    """Both parts of the embedded set, and the seconds of processor time that one thread took."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    train, test = load_images("shapes", "nowhere")
    seconds = time.process_time() - start
    yield SimpleNamespace(train=train, test=test, seconds=seconds)
    torch.set_num_threads(threads)


def test_shapes_are_balanced_uint8_images_of_ten_named_classes(drawn):
    for part, count in ((drawn.train, 6000), (drawn.test, 4000)):
        assert part.images.shape == (count, 32, 32, 3)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.images.is_contiguous()
        assert part.labels.bincount().tolist() == [count // 10] * 10
        assert len(set(part.class_names)) == 10


def test_shapes_are_drawn_in_seconds(drawn):
    assert drawn.seconds < 10


@pytest.mark.usefixtures("drawn")
def test_shapes_are_the_same_in_every_draw_whatever_the_global_random_state_and_threads():
    torch.manual_seed(1)
    np.random.seed(1)
    first = shapes.draw(100, seed=3)
    torch.manual_seed(2)
    np.random.seed(2)
    torch.set_num_threads(2)
    second = shapes.draw(100, seed=3)
    torch.set_num_threads(1)
    assert first.fingerprint() == second.fingerprint()
    assert shapes.draw(100, seed=4).fingerprint() != first.fingerprint()


def test_no_shape_is_drawn_twice_and_none_of_the_test_images_is_a_training_image(drawn):
    images = {image.numpy().tobytes() for part in (drawn.train, drawn.test) for image in part.images}
    assert len(images) == 10_000


def test_every_pair_of_shapes_differs_in_the_same_scene():
    scenes = []
    for label in range(10):
        labels = torch.full((20,), label)
        scenes.append(shapes._scenes(labels, np.random.default_rng(0)).int())
    for one, other in combinations(scenes, 2):
        visibly = ((one - other).abs().amax(-1) > 32).float().mean((1, 2))
        assert visibly.median() > 0.02


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


# --- CIFAR from a server ----------------------------------------------------------------------------


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def cifar_files(name: str) -> dict[str, dict]:
    """The content of a tiny archive, by file name."""
    random = np.random.default_rng(len(name))

    def batch(count: int, classes: int) -> dict:
        key = "labels" if name == "cifar10" else "fine_labels"
        labels = random.integers(0, classes, count).tolist()
        return {"data": random.integers(0, 256, (count, 3072), dtype=np.uint8), key: labels}

    if name == "cifar10":
        names = {"label_names": [f"class {number}" for number in range(10)]}
        batches = {"data_batch_1": batch(7, 10), "data_batch_2": batch(5, 10), "test_batch": batch(4, 10)}
        return batches | {"batches.meta": names}
    return {
        "train": batch(9, 100),
        "test": batch(4, 100),
        "meta": {"fine_label_names": [f"class {number}" for number in range(100)]},
    }


def archive(base_folder: str, files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{base_folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests += 1
        self.close_connection = True
        getattr(self, self.server.manner)(self.server.content)

    def answer(self, content: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def whole(self, content: bytes) -> None:
        self.answer(content, len(content))

    def broken_in_the_middle(self, content: bytes) -> None:
        self.answer(content[: len(content) // 2], len(content))

    def broken_chunks(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n" % len(content) + content[: len(content) // 2])

    def wrong_bytes(self, content: bytes) -> None:
        self.answer(content[::-1], len(content))

    def a_page_instead(self, _content: bytes) -> None:
        self.answer(b"<html>log in first</html>", 25)

    def not_found(self, _content: bytes) -> None:
        self.send_error(404)

    def server_error(self, _content: bytes) -> None:
        self.send_error(503)

    def no_answer(self, _content: bytes) -> None:
        self.server.released.wait(20)

    def closed_at_once(self, _content: bytes) -> None:
        pass

    def no_http(self, _content: bytes) -> None:
        self.wfile.write(b"220 ftp ready\r\n")

    def log_message(self, *_args) -> None:
        pass


class Server(ThreadingHTTPServer):
    requests = 0
    manner = "whole"
    content = b""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(params=["cifar10", "cifar100"])
def fake(request, server, monkeypatch):
    """A server of a tiny archive that torchvision takes for the official one."""
    datasets = pytest.importorskip("torchvision.datasets")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.param]
    files = cifar_files(request.param)
    packed = {name: pickle.dumps(content) for name, content in files.items()}
    sums = {name: md5(data) for name, data in packed.items()}
    server.content = archive(kind.base_folder, packed)
    meta = kind.meta["filename"]
    monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
    monkeypatch.setattr(kind, "tgz_md5", md5(server.content))
    monkeypatch.setattr(kind, "train_list", [[n, s] for n, s in sums.items() if "test" not in n and n != meta])
    monkeypatch.setattr(kind, "test_list", [[n, s] for n, s in sums.items() if "test" in n])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[meta]})
    monkeypatch.setattr(cifar, "TIMEOUT", 5)
    return SimpleNamespace(name=request.param, kind=kind, files=files, server=server, meta=meta)


def assert_is_whole(parts: tuple[ImageSet, ImageSet], fake: SimpleNamespace) -> None:
    for part, listed in zip(parts, (fake.kind.train_list, fake.kind.test_list), strict=True):
        batches = [fake.files[name] for name, _ in listed]
        planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch.get("labels") or batch["fine_labels"]]
        np.testing.assert_array_equal(part.images.numpy(), np.moveaxis(planes, 1, 3))
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == labels
        assert list(part.class_names) == fake.files[fake.meta][fake.kind.meta["key"]]


def assert_names_the_way_out(error: UserError, fake: SimpleNamespace, data_dir: Path) -> None:
    text = str(error)
    for what in (fake.kind.filename, fake.kind.tgz_md5, fake.kind.url, str(data_dir), "--dataset shapes"):
        assert what in text
    assert "\n" not in text


def test_cifar_is_downloaded_into_a_new_folder(fake, tmp_path):
    assert_is_whole(load_images(fake.name, tmp_path / "new" / "data"), fake)
    assert fake.server.requests > 0


def test_cifar_is_served_in_normalised_and_augmented_batches(fake, tmp_path):
    train, _ = load_images(fake.name, tmp_path)
    mean, std = train.mean_and_std()
    np.testing.assert_allclose(mean, train.images.numpy().astype(np.float64).mean((0, 1, 2)))
    served = list(Batches(train, Normalise(mean, std), 4, seed=0).epoch(0))
    served += Batches(train, Normalise(mean, std), 4).epoch(0)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in served)


def test_a_second_load_of_cifar_needs_no_server(fake, tmp_path):
    load_images(fake.name, tmp_path)
    fake.server.manner, fake.server.requests = "not_found", 0
    assert_is_whole(load_images(fake.name, tmp_path), fake)
    assert fake.server.requests == 0


def test_an_archive_that_the_user_put_there_needs_no_server(fake, tmp_path):
    (tmp_path / fake.kind.filename).write_bytes(fake.server.content)
    fake.server.manner = "not_found"
    assert_is_whole(load_images(fake.name, tmp_path), fake)
    assert fake.server.requests == 0


BAD_MANNERS = [
    "not_found",
    "server_error",
    "broken_in_the_middle",
    "broken_chunks",
    "wrong_bytes",
    "a_page_instead",
    "closed_at_once",
    "no_http",
]


@pytest.mark.parametrize("manner", BAD_MANNERS)
def test_a_download_that_fails_names_the_way_out_and_a_later_one_succeeds(fake, tmp_path, manner):
    fake.server.manner = manner
    for _ in range(2):
        with pytest.raises(UserError) as raised:
            load_images(fake.name, tmp_path)
        assert_names_the_way_out(raised.value, fake, tmp_path)
    fake.server.manner = "whole"
    assert_is_whole(load_images(fake.name, tmp_path), fake)


def test_a_server_that_never_answers_counts_as_gone(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
    fake.server.manner = "no_answer"
    start = time.monotonic()
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path)
    assert time.monotonic() - start < 10
    assert_names_the_way_out(raised.value, fake, tmp_path)
    assert socket.getdefaulttimeout() is None


def test_without_a_server_the_error_names_the_way_out_and_a_later_load_succeeds(fake, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    good = fake.kind.url
    monkeypatch.setattr(fake.kind, "url", f"http://127.0.0.1:{port}/{fake.kind.filename}")
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path)
    assert_names_the_way_out(raised.value, fake, tmp_path)
    monkeypatch.setattr(fake.kind, "url", good)
    assert_is_whole(load_images(fake.name, tmp_path), fake)


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("kind_of_file", ["train", "test", "meta"])
def test_an_archive_that_was_unpacked_in_part_is_unpacked_again(fake, tmp_path, kind_of_file, damage):
    load_images(fake.name, tmp_path)
    lists = {"train": fake.kind.train_list, "test": fake.kind.test_list, "meta": [[fake.meta, ""]]}
    path = tmp_path / fake.kind.base_folder / lists[kind_of_file][0][0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    assert_is_whole(load_images(fake.name, tmp_path), fake)


def test_a_data_folder_that_cannot_be_made_names_the_way_out(fake, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError) as raised:
        load_images(fake.name, tmp_path / "file")
    assert_names_the_way_out(raised.value, fake, tmp_path / "file")


@pytest.mark.parametrize(
    "failure",
    [
        'RuntimeError("operator torchvision::nms does not exist")',
        "AttributeError(\"partially initialized module 'torchvision' has no attribute 'extension'\")",
        'ImportError("undefined symbol: _ZN3c10")',
    ],
)
def test_a_torchvision_that_does_not_fit_torch_is_answered_with_the_way_to_a_pair(tmp_path, monkeypatch, failure):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {failure}\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as raised:
        load_images("cifar10", tmp_path / "data")
    assert f"torchvision does not work with torch {torch.__version__}" in str(raised.value)
    assert failure.split('"')[1].split("'")[0] in str(raised.value)
    assert "pip install" in raised.value.hint
    assert "torch torchvision" in raised.value.hint
    assert not (tmp_path / "data").exists()


def test_an_unknown_source_is_a_key_error(tmp_path):
    with pytest.raises(KeyError):
        load_images("imagenet", tmp_path)
