import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from folders import load, load_fresh, notes, same
from image_files import save, solid
from PIL import Image

from utils.data.sources import decode
from utils.runtime.errors import UserError


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
