import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import load, load_fresh, same
from image_files import save, solid

from utils.data.sources import image_cache
from utils.runtime import atomic
from utils.runtime import files as storage


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


def swap(tree: Path) -> None:
    """Two files of one size and time for each other, with their times preserved."""
    one, other = (tree / "train" / "cat" / name for name in ("1.png", "2.png"))
    size = max(path.stat().st_size for path in (one, other))
    content = [path.read_bytes().ljust(size, b"\0") for path in (one, other)]
    for step in (content, content[::-1]):
        for path, data in zip((one, other), step, strict=True):
            path.write_bytes(data)
            os.utime(path, ns=(10**18, 10**18))
        if step is content:
            load(tree)


def swap_names(tree: Path) -> None:
    """Likewise, and neither file is written to."""
    cat = tree / "train" / "cat"
    size = max((cat / name).stat().st_size for name in ("1.png", "2.png"))
    for name in ("1.png", "2.png"):
        (cat / name).write_bytes((cat / name).read_bytes().ljust(size, b"\0"))
        os.utime(cat / name, ns=(10**18, 10**18))
    load(tree)
    for old, new in (("1.png", "x"), ("2.png", "1.png"), ("x", "2.png")):
        (cat / old).rename(cat / new)


def remove(tree: Path) -> None:
    (tree / "train" / "cat" / "1.png").unlink()


def rename(tree: Path) -> None:
    (tree / "train" / "cat" / "1.png").rename(tree / "train" / "cat" / "3.png")


def move_to_another_class(tree: Path) -> None:
    (tree / "train" / "cat" / "2.png").rename(tree / "train" / "dog" / "3.png")


def rename_class(tree: Path) -> None:
    for part in ("train", "test"):
        (tree / part / "cat").rename(tree / part / "zebra")


@pytest.mark.parametrize(
    "step", [add, change, grow, swap, swap_names, remove, rename, move_to_another_class, rename_class]
)
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


def test_a_new_file_is_the_only_one_that_is_decoded_again(tree, decoded):
    load(tree)
    decoded.clear()
    save(tree / "test" / "cat" / "1.png", solid(1, 2, 3))
    load(tree)
    assert decoded == ["test/cat/1.png"]


def touch(tree: Path) -> Path:
    for path in tree.glob("*/*/*.png"):
        os.utime(path, ns=(10**18, 10**18))
    return tree


def copy(tree: Path) -> Path:
    return Path(shutil.copytree(tree, tree.with_name("copy")))


def set_mode(tree: Path) -> Path:
    for path in tree.glob("*/*/*.png"):
        path.chmod(0o600)
    return tree


def rename_classes(tree: Path) -> Path:
    rename_class(tree)
    return tree


@pytest.mark.parametrize("step", [touch, copy, set_mode, rename_classes])
def test_files_of_the_same_content_as_before_are_not_decoded_again(tree, decoded, step):
    drawing = np.full((32, 32, 4), 255, np.uint8)
    drawing[:, :16, 3] = 0
    save(tree / "train" / "cat" / "icon.png", drawing)
    load(tree)
    tree = step(tree)
    expected = load_fresh(tree)
    decoded.clear()
    for _ in range(2):  # by their content, then by their new state
        parts = load(tree)
        assert same(parts, expected)
        assert "icon.png" in parts.notes[-1]
    assert decoded == []


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/dev")],
    ids=["pipe", "folder", "device", "link to a folder"],
)
def test_a_cache_that_is_no_file_is_said_in_one_line_and_left_as_it_is(tree, capsys, make):
    expected = load(tree)
    cache = the_cache(tree)
    cache.unlink()
    make(cache)
    kind = cache.lstat().st_mode
    assert same(load(tree), expected)
    assert capsys.readouterr().err == f"warning: no image cache, every start decodes: {cache} is not a file\n"
    assert cache.lstat().st_mode == kind


def test_a_cache_larger_than_its_images_can_be_is_not_read_but_made_again(tree, capsys):
    expected = load(tree)
    cache = the_cache(tree)
    os.truncate(cache, 2**40)  # a file with a hole, of nearly nothing on the disk
    assert same(load(tree), expected)
    assert capsys.readouterr().err == f"note: {cache} is too large for its images, and is made again\n"
    assert cache.stat().st_size < 2**20
    assert same(load(tree), expected)
    assert capsys.readouterr().err == ""


def test_a_cache_that_the_disk_does_not_give_back_is_made_again_with_a_note(tree, capsys, monkeypatch):
    expected = load(tree)

    def fail(path, **_more):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(image_cache, "read_tensors", fail)
    assert same(load(tree), expected)
    assert f"note: {the_cache(tree)} is damaged" in capsys.readouterr().err


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
    assert f"note: {cache} is damaged" in capsys.readouterr().err
    decoded.clear()
    assert same(load(tree), first)
    assert decoded == []


def test_a_cache_with_one_wrong_bit_in_its_pixels_is_made_again_with_a_note(tree, capsys):
    first = load(tree)
    cache = the_cache(tree)
    whole = bytearray(cache.read_bytes())
    pixels = first[0].images.numpy().tobytes()
    start = whole.index(pixels)
    for offset in (0, len(pixels) // 2, len(pixels) - 1):
        damaged = bytearray(whole)
        damaged[start + offset] ^= 1
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
    for offset in (*range(0, start, 5), *range(start + len(pixels), len(whole), 5)):
        damaged = bytearray(whole)
        damaged[offset] ^= 0xFF
        cache.write_bytes(damaged)
        assert same(load(tree), first), offset


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
        {"states": content["states"]},
        content | {"flat": content["flat"][:5]},
        content | {"contents": content["contents"][:, :8]},
        {"key": "of an earlier version", "images": images},
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

    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(atomic, "_new_file", refuse)
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
