import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from folders import load, load_fresh, notes, same
from image_files import make_tree, save, solid
from PIL import Image
from toys import CPU

from utils.data.dataset import load_dataset
from utils.data.sources import Parts, folder
from utils.runtime.errors import UserError


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
