import errno
import os
import re
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from image_files import make_tree, save, solid
from PIL import Image
from toys import CPU

from utils.data.dataset import load_dataset
from utils.data.sources import Parts, decode, folder, image_cache, load_images
from utils.runtime import atomic
from utils.runtime import files as storage
from utils.runtime.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    return make_tree(tmp_path / "images")


def load(root: Path, size: int = 32, **more) -> Parts:
    return load_images("folder", root, size, **more)


def load_fresh(root: Path, size: int = 32) -> Parts:
    """What the images of `root` are without any cache."""
    copy = root.with_name(f"{root.name}-{time.monotonic_ns()}")
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*"))
    return load(copy, size)


def same(one: Parts, other: Parts) -> bool:
    return [part.fingerprint() for part in one[:2]] == [part.fingerprint() for part in other[:2]]


def test_a_folder_s_images_come_sorted_with_the_classes_of_train_numbered_by_name(tmp_path):
    for name, red in (("b", 10), ("a", 20), ("c", 30)):
        for index in (2, 0, 1):
            save(tmp_path / "train" / name / f"{index}.png", solid(red, index, 0))
    save(tmp_path / "test" / "c" / "x.png", solid(1, 2, 3))
    save(tmp_path / "test" / "b" / "x.png", solid(4, 5, 6))
    train, test, *_ = load(tmp_path, 48)
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [1, 2]
    assert train.images.shape == (9, 48, 48, 3)
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert train.images[:, 0, 0, 0].tolist() == [20] * 3 + [10] * 3 + [30] * 3
    assert train.images[:, 0, 0, 1].tolist() == [0, 1, 2] * 3
    assert test.images[:, 47, 47].tolist() == [[4, 5, 6], [1, 2, 3]]


def test_images_of_different_sizes_and_formats_share_a_class(tmp_path):
    make_tree(tmp_path)
    save(tmp_path / "train" / "cat" / "3.jpg", solid(200, 100, 50, size=(500, 300)))
    save(tmp_path / "train" / "cat" / "4.BMP", solid(200, 100, 50, size=(5, 9)))
    save(tmp_path / "train" / "cat" / "5.gif", solid(200, 100, 50, size=(32, 32)).quantize())
    train, *_ = load(tmp_path)
    assert train.labels.bincount().tolist() == [6, 3]
    assert (train.images[3:6].int() - torch.tensor([200, 100, 50])).abs().max() <= 3


def test_class_names_may_hold_spaces_quotes_and_any_letters(tmp_path):
    names = ("two words", "Käfer", "猫", "it's", "100%", "a#b")
    for part in ("train", "test"):
        for red, name in enumerate(names):
            save(tmp_path / part / name / "ein Bild é.png", solid(red, 0, 0))
    for _ in range(2):
        train, test, *_ = load(tmp_path)
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


def test_of_very_many_unreadable_images_the_first_are_named_and_all_are_in_a_file(tree):
    for index in range(23):
        (tree / "train" / "dog" / f"bad{index:02}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"23 unreadable of 31 images: .*bad04\.png.* and 18 more") as raised:
        load(tree)
    assert "bad05" not in str(raised.value)
    listing = tree / "unreadable-images.txt"
    assert str(listing) in str(raised.value)
    header, *lines = listing.read_text().splitlines()
    assert header.startswith("#")
    assert lines[0].split("\t")[1] == "is empty"
    assert [line.split("\t")[0] for line in lines] == [
        str(tree / "train" / "dog" / f"bad{index:02}.png") for index in range(23)
    ]


def test_the_list_of_unreadable_images_goes_to_a_new_file_elsewhere_where_it_cannot_lie_beside_them(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(folder.tempfile, "tempdir", str(tmp_path))
    (tree / "train" / "dog" / "bad.png").write_bytes(b"")
    (tree / "unreadable-images.txt").write_text("the user's own")
    with pytest.raises(UserError) as raised:
        load(tree)
    (listing,) = tmp_path.glob("unreadable-images-*.txt")
    assert str(listing) in str(raised.value)
    assert "bad.png" in listing.read_text()
    assert (tree / "unreadable-images.txt").read_text() == "the user's own"


def test_a_pipe_of_the_name_of_the_list_of_unreadable_images_is_not_waited_for(tree):
    (tree / "train" / "dog" / "bad.png").write_bytes(b"")
    os.mkfifo(tree / "unreadable-images.txt")
    with pytest.raises(UserError, match=r"all are listed in .*unreadable-images-"):
        load(tree)


def test_with_skip_bad_images_a_run_goes_on_without_them_and_says_so(tree):
    expected = load_fresh(tree)
    broken = broken_files(tree)
    parts = load(tree, skip_bad_images=True)
    assert same(parts, expected)
    (note,) = parts.notes
    assert note.startswith("left out 5 unreadable of 13 images: ")
    listing = (tree / "unreadable-images.txt").read_text()
    assert all(str(path) in listing for path in broken)


def test_test_images_know_their_files_also_where_others_are_left_out(tree):
    (tree / "test/cat/deep").mkdir()
    Image.new("RGB", (40, 40), "orange").save(tree / "test/cat/deep/new.png")
    first = sorted((tree / "test/cat").glob("*.png"))[0]
    first.write_bytes(b"broken")
    test = load(tree, skip_bad_images=True).test
    paths = sorted(path for path in (tree / "test").rglob("*.png") if path != first)
    assert test.files == tuple(path.relative_to(tree).as_posix() for path in paths)
    assert test.class_names[test.labels[test.files.index("test/cat/deep/new.png")]] == "cat"
    assert test.first(2).files == tuple(test.files[index] for index in (0, len(test) - 1))


def test_with_skip_bad_images_a_class_that_is_lost_is_an_error(tree):
    for index in range(3):
        (tree / "train" / "dog" / f"{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no readable image in .*train for: dog"):
        load(tree, skip_bad_images=True)


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


def test_a_class_of_train_without_images_is_named_with_what_it_holds(tree):
    (tree / "train" / "bird").mkdir()
    (tree / "train" / "fish").mkdir()
    (tree / "train" / "fish" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"no images in .*train for: bird \(empty\), fish \(1 \.txt\)"):
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


def test_the_test_part_alone_needs_no_other_and_has_the_classes_of_its_folders_or_of_a_network(tree):
    both = load(tree)
    shutil.rmtree(tree / "train")
    parts = load(tree, test_only=True)
    assert (parts.train, parts.val) == (None, None)
    assert parts.test.fingerprint() == both.test.fingerprint()
    shutil.rmtree(tree / "test" / "cat")
    test = load(tree, test_only=True, class_names=("dog", "bird", "cat")).test
    assert test.class_names == ("dog", "bird", "cat")
    assert set(test.labels.tolist()) == {0}
    with pytest.raises(UserError, match="test has classes that the network lacks: dog"):
        load(tree, test_only=True, class_names=("bird", "cat"))


def test_without_the_test_part_a_hint_names_what_is_there(tree, tmp_path):
    shutil.rmtree(tree / "train")
    with pytest.raises(UserError, match=rf"images has test/ in it: --data-dir {tree}"):
        load(tmp_path, test_only=True)
    with pytest.raises(UserError, match=rf"one part of the data: --data-dir {tree}\)"):
        load(tree / "test", test_only=True)
    (tree / "test").rename(tree / "val")
    with pytest.raises(UserError, match=r"no folder .*test .*there is val/: .*Rename val/ to test/"):
        load(tree, test_only=True)


def test_a_data_folder_that_is_missing_is_named_and_not_made(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_single_class_is_refused(tree):
    shutil.rmtree(tree / "train" / "dog")
    shutil.rmtree(tree / "test" / "dog")
    with pytest.raises(UserError, match="only one class: cat"):
        load(tree)


# --- folders as they are ------------------------------------------------------------------------------


def notes(tree: Path, **more) -> str:
    return "\n".join(load(tree, **more).notes)


def test_images_in_deeper_folders_belong_to_the_class_above_them(tree):
    for name, green in (("session1/a.png", 1), ("session2/b.png", 2), ("session2/day 1/c.png", 3)):
        save(tree / "train" / "dog" / name, solid(200, green, 0))
    train = load(tree).train
    assert train.labels.tolist() == [0] * 3 + [1] * 6
    assert train.images[6:, 0, 0, 1].tolist() == [1, 2, 3]


def test_a_class_whose_images_all_lie_in_deeper_folders_is_whole(tree):
    cat = tree / "train" / "cat"
    (cat / "session").mkdir()
    for path in list(cat.glob("*.png")):
        path.rename(cat / "session" / path.name)
    assert same(load(tree), load_fresh(tree))
    assert len(load(tree).train) == 6


def test_links_to_folders_are_followed_but_not_in_circles(tree, tmp_path):
    save(tmp_path / "elsewhere" / "9.png", solid(1, 2, 3))
    (tree / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tree / "train" / "cat" / "round").symlink_to(tree / "train")
    parts = load(tree)
    assert parts.train.labels.tolist() == [0] * 4 + [1] * 3
    assert "1 link to a folder around it" in parts.notes[0]


def test_what_is_passed_over_is_counted_by_ending_in_one_line(tree, capsys):
    cat = tree / "train" / "cat"
    for name in (
        "a.txt",
        "b.TXT",
        "deeper/c.txt",
        "d.csv",
        "no_ending",
        ".DS_Store",
        "__MACOSX/0.png",
        "Thumbs.db",
    ):
        path = cat / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    (cat / "lost.jpg").symlink_to(tree / "nowhere.jpg")
    (tree / "test" / "__MACOSX").mkdir()
    (tree / "train" / "loose.png").write_bytes(b"")
    os.mkfifo(cat / "pipe.png")
    parts = load(tree)
    assert len(parts.train) == 6
    (note,) = parts.notes
    for text in ("3 .txt", "1 .csv", "1 without an ending", "4 hidden or of the system", "1 not a file"):
        assert text in note
    assert f"1 dangling link ({cat / 'lost.jpg'})" in note
    assert "1 directly in train/" in note
    assert f"note: {note}\n" == capsys.readouterr().out


@pytest.mark.parametrize("ending", ["h5", "hdf", "mpg", "eps", "ps", "wmf", "emf", "pdf", "grib", "bufr", "mp4"])
def test_what_is_no_image_by_its_ending_does_not_block_a_run(tree, ending):
    (tree / "train" / "cat" / f"x.{ending}").write_bytes(b"anything")
    assert f"1 .{ending}" in notes(tree)


def test_formats_that_a_package_would_open_are_passed_over_with_its_name(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.HEIC"):
        (tree / "train" / "cat" / name).write_bytes(b"")
    decode.is_image.cache_clear()
    assert "2 .heic (pip install pillow-heif to read them)" in notes(tree)
    decode.is_image.cache_clear()


def test_formats_of_a_package_that_is_there_are_read(tree, monkeypatch):
    """A stand-in that does what pillow-heif does: it registers the ending when asked to."""
    stand_in = ModuleType("pillow_heif")
    stand_in.register_heif_opener = lambda: Image.register_extension("PNG", ".heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.registered_extensions()))
    decode.is_image.cache_clear()
    shutil.copy(tree / "train" / "cat" / "0.png", tree / "train" / "cat" / "9.heic")
    assert len(load(tree).train) == 7
    decode.is_image.cache_clear()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_the_validation_part(tree, name):
    save(tree / name / "dog" / "0.png", solid(7, 7, 7))
    parts = load(tree)
    assert parts.val.labels.tolist() == [1]
    assert parts.val.class_names == ("cat", "dog")
    assert (parts.val.images == 7).all()
    assert len(parts.train) == 6
    assert f"{name}/ has no images of: cat" in parts.notes


def test_without_a_validation_folder_the_source_has_no_validation_part(tree):
    assert load(tree).val is None


def settings(tree: Path, **more) -> SimpleNamespace:
    usual = {"dataset": "folder", "data_dir": str(tree), "image_size": 32, "limit": None, "val_size": None}
    usual |= {"drop_duplicates": False}
    return SimpleNamespace(**usual | more)


def test_a_run_validates_on_the_validation_folder_and_trains_on_all_of_train(tree):
    for name in ("cat", "dog"):
        save(tree / "val" / name / "0.png", solid(7, 7, 7))
    dataset = load_dataset(settings(tree), CPU)
    assert dataset.counts() == {"train": 6, "val": 2, "test": 2}
    assert (dataset.val.images == 7).all()
    assert load_dataset(settings(tree, val_size=0), CPU).counts() == {"train": 6, "val": 0, "test": 2}
    with pytest.raises(UserError, match="validation part of their own"):
        load_dataset(settings(tree, val_size=2), CPU)


def test_two_validation_folders_are_an_error_that_names_both(tree):
    for name in ("val", "valid"):
        save(tree / name / "cat" / "0.png", solid(7, 7, 7))
    with pytest.raises(UserError, match="val/ and valid/"):
        load(tree)


def test_train_and_val_without_test_are_named_in_the_hint(tree):
    (tree / "test").rename(tree / "valid")
    with pytest.raises(UserError, match=r"no folder .*test .*there are train/ and valid/.*Rename valid/ to test/"):
        load(tree)


def test_a_folder_one_level_too_high_or_too_low_is_named_with_the_one_that_fits(tree, tmp_path):
    with pytest.raises(UserError, match=rf"images has train/ in it: --data-dir {tree}"):
        load(tmp_path)
    with pytest.raises(UserError, match=rf"one part of the data: --data-dir {tree}\)"):
        load(tree / "train")


def test_classes_without_parts_are_named(tree):
    with pytest.raises(UserError, match=r"no folder .*train .*there are the folders bird, fish"):
        save(tree / "all" / "fish" / "0.png", solid(1, 2, 3))
        save(tree / "all" / "bird" / "0.png", solid(1, 2, 3))
        load(tree / "all")


def test_an_archive_that_is_not_unpacked_is_named_as_a_file(tree):
    (tree / "images.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"images\.zip is a file"):
        load(tree / "images.zip")


def test_images_without_folders_of_classes_are_counted(tree):
    shutil.rmtree(tree / "train")
    for index in range(4):
        save(tree / "train" / f"{index}.png", solid(1, 2, 3))
    with pytest.raises(UserError, match=r"no images in folders of .*train \(4 lie directly in it\)"):
        load(tree)


def test_classes_one_level_too_deep_are_named(tree):
    (tree / "train").rename(tree / "old")
    (tree / "train").mkdir()
    (tree / "old").rename(tree / "train" / "images")
    with pytest.raises(UserError, match=r"only one class: images \(6 images\) \(hint: if cat, dog in it are the"):
        load(tree)


def wrong_layouts(tree: Path):
    """Change the folder into one that is refused after another."""
    (tree / "train" / "bird").mkdir()
    yield
    (tree / "train" / "bird" / "0.png").write_bytes(b"")
    yield
    shutil.rmtree(tree / "test" / "cat")
    shutil.rmtree(tree / "test" / "dog")
    yield
    shutil.rmtree(tree / "test")
    yield
    shutil.rmtree(tree / "train" / "cat")
    shutil.rmtree(tree / "train" / "bird")
    (tree / "test").mkdir()
    yield


def test_no_error_advises_to_delete(tree):
    for _ in wrong_layouts(tree):
        with pytest.raises(UserError) as raised:
            load(tree)
        assert not re.search("delet|remov", str(raised.value).replace(str(tree), ""), re.IGNORECASE)


def test_classes_that_test_lacks_are_noted(tree):
    shutil.rmtree(tree / "test" / "cat")
    (tree / "test" / "dog" / "notes.txt").write_text("")
    assert "test/ has no images of: cat" in load(tree).notes


def test_imbalance_beyond_10_to_1_is_noted(tree):
    for index in range(3, 30):
        save(tree / "train" / "dog" / f"{index}.png", solid(1, 2, index))
    assert "imbalanced" not in notes(tree)
    save(tree / "train" / "dog" / "30.png", solid(1, 2, 3))
    assert "train/ is imbalanced: of its classes, dog 31 and cat 3 images (10 to 1)" in notes(tree)


def test_an_image_that_decodes_to_one_colour_although_its_file_has_more_is_noted(tree):
    assert "one colour" not in notes(tree)  # they are of one colour, and so are their files
    drawing = np.full((32, 32, 4), 255, np.uint8)
    drawing[:, :16, 3] = 0
    save(tree / "train" / "cat" / "icon.png", drawing)
    for _ in range(2):  # decoded, and from the cache
        assert "1 decoded to nearly one colour, although the file has more: " in notes(tree)
    save(tree / "train" / "cat" / "more.png", solid(1, 2, 3))
    assert "icon.png" in notes(tree)
    assert "one colour" not in notes(tree, limit=2)


def test_warnings_of_decoders_do_not_reach_the_terminal(tree, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tree / "train" / "cat" / "x.tif", noise, compression="tiff_lzw")
    damaged = bytearray(path.read_bytes())
    damaged[600:700] = bytes(100)
    path.write_bytes(damaged)
    cut = save(tree / "train" / "cat" / "y.tif", noise, compression="tiff_lzw").read_bytes()
    (tree / "train" / "cat" / "y.tif").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(UserError, match="2 unreadable"):
        load(tree)
    assert capfd.readouterr().err == ""


def test_limit_chooses_before_it_decodes(tree, decoded):
    for index in range(3, 8):
        save(tree / "train" / "cat" / f"{index}.png", solid(1, 2, index))
    parts = load(tree, limit=5)
    assert sorted(name for name in decoded if "train" in name) == [
        *(f"train/cat/{index}.png" for index in range(3)),
        *(f"train/dog/{index}.png" for index in range(2)),
    ]
    whole = load_fresh(tree)
    assert same(parts, Parts(whole.train.first(5), whole.test.first(5)))


def test_a_limit_smaller_than_the_number_of_classes_is_refused_before_anything_is_decoded(tree, decoded):
    with pytest.raises(UserError, match="--limit 1"):
        load(tree, limit=1)
    assert decoded == []


def test_a_limited_run_takes_its_images_from_the_cache_of_all_and_leaves_that_whole(tree, decoded):
    whole = load(tree)
    save(tree / "train" / "cat" / "+.png", solid(9, 9, 9))  # before the others
    decoded.clear()
    limited = load(tree, limit=2)
    assert limited.train.images[:, 0, 0].tolist() == [[9, 9, 9], [100, 0, 7]]
    after = load(tree)
    assert len(after.train) == len(whole.train) + 1
    assert decoded == ["train/cat/+.png"]
    assert same(after, load_fresh(tree))


def test_what_was_decoded_before_a_failure_is_not_decoded_again(tree, decoded):
    broken = broken_files(tree)
    with pytest.raises(UserError, match="unreadable"):
        load(tree)
    assert len(decoded) == 13
    decoded.clear()
    with pytest.raises(UserError, match="5 unreadable"):
        load(tree)
    assert len(decoded) == 5
    for path in broken:
        path.rename(tree / path.name)
    decoded.clear()
    assert same(load(tree), load_fresh(tree))
    assert not any(f"{tree.name}/" in name for name in decoded)
    assert len(decoded) == 8  # those of the copy without a cache


def test_what_was_decoded_before_the_user_stopped_is_not_decoded_again(tree, decoded, monkeypatch):
    decode_one = folder.decode_image

    def stop_at_dogs(path: Path, size: int) -> np.ndarray:
        if path.parent.name == "dog":
            raise KeyboardInterrupt
        return decode_one(path, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder, "decode_image", stop_at_dogs)
        load(tree)
    assert set(decoded) == {f"train/cat/{index}.png" for index in range(3)}
    decoded.clear()
    load(tree)
    assert not any("train/cat" in name for name in decoded)
    assert same(load(tree), load_fresh(tree))


def test_a_large_array_is_stated_before_anything_is_decoded(tree, decoded, monkeypatch, capsys):
    monkeypatch.setattr(folder, "LARGE_ARRAY", 8 * 64 * 64 * 3)
    load(tree, 32)
    assert capsys.readouterr().out == ""
    load(tree, 64)
    out = capsys.readouterr().out
    assert out.startswith("note: 8 images of 64x64 pixels take ")
    assert "--image-size" in out
    decoded.clear()
    monkeypatch.setattr(folder, "physical_memory", lambda: 10_000)
    with pytest.raises(UserError, match=r"8 images of 128x128 pixels .*--image-size"):
        load(tree, 128)
    assert decoded == []


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
