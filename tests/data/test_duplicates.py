from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from toys import CPU, images

import utils.data.dataset
from utils.data import duplicates
from utils.data.dataset import Dataset, load_dataset
from utils.data.image_set import ImageSet
from utils.data.sources import Parts
from utils.runtime.errors import UserError


def joined(*sets: ImageSet) -> ImageSet:
    pixels, labels = torch.cat([each.images for each in sets]), torch.cat([each.labels for each in sets])
    return replace(sets[0], images=pixels, labels=labels)


def picked(image_set: ImageSet, *indices: int) -> ImageSet:
    return image_set.select(torch.tensor(indices))


def loaded(monkeypatch, parts: Parts, drop: bool = False, val_size: int | None = None) -> Dataset:
    monkeypatch.setattr(utils.data.dataset, "load_images", lambda *_, **__: parts)
    usual = {"dataset": "any", "data_dir": "any", "image_size": 32, "limit": None}
    return load_dataset(SimpleNamespace(**usual, drop_duplicates=drop, val_size=val_size), CPU)


@pytest.fixture
def leaking() -> Parts:
    """Of 6 test images 3 are in train and 1 of these in val, too; of 5 in val 2 are in train."""
    test, val = images(6, seed=1), images(4, seed=2)
    train = joined(images(8, seed=3), picked(test, 0, 1, 2, 2), picked(val, 1))
    return Parts(train, test, joined(val, picked(test, 0)))


def equal_pairs(one: ImageSet, other: ImageSet) -> set[int]:
    """The images of `one` that are in `other`, each compared with each."""
    indices = product(range(len(one)), range(len(other)))
    return {i for i, j in indices if torch.equal(one.images[i], other.images[j])}


def test_images_that_are_in_two_parts_are_counted(monkeypatch, leaking):
    train, test, val, _ = leaking
    counts = loaded(monkeypatch, leaking).duplicates
    assert counts == {"test_in_train": 3, "test_in_val": 1, "val_in_train": 2}
    for name, (one, other) in zip(counts, ((test, train), (test, val), (val, train)), strict=True):
        assert counts[name] == len(equal_pairs(one, other))


def test_where_no_images_are_equal_nothing_is_said(monkeypatch):
    assert loaded(monkeypatch, Parts(images(50), images(20, seed=1))).duplicates == {}


def test_equal_images_of_different_classes_are_counted_and_those_of_one_class_are_not(monkeypatch):
    train = images(8)
    copies = picked(train, 0, 1, 1)
    other = replace(copies, labels=torch.tensor([0, 3, 2]))
    parts = Parts(joined(train, other), images(8, seed=1))
    assert loaded(monkeypatch, parts, val_size=0).duplicates == {"relabelled": 3}


def test_images_that_share_a_checksum_by_chance_are_not_equal(monkeypatch, leaking):
    expected = loaded(monkeypatch, leaking).duplicates
    monkeypatch.setattr(duplicates.zlib, "crc32", lambda _data: 7)
    assert loaded(monkeypatch, leaking).duplicates == expected


def test_a_single_pixel_makes_another_image(monkeypatch):
    train = images(8)
    test = replace(train, images=train.images.clone())
    test.images[:4, 31, 31, 2] ^= 1
    assert loaded(monkeypatch, Parts(train, test), val_size=0).duplicates == {"test_in_train": 4}


def test_dropping_takes_images_of_later_parts_out_of_earlier_ones_and_changes_nothing_else(monkeypatch, leaking):
    train, test, val, _ = leaking
    dataset = loaded(monkeypatch, leaking, drop=True)
    assert torch.equal(dataset.test.images, test.images)
    assert torch.equal(dataset.val.images, val.images[:4])
    assert torch.equal(dataset.train.images, train.images[:8])
    assert torch.equal(dataset.train.labels, train.labels[:8])
    assert dataset.duplicates == {"dropped": 6}
    assert dataset.normalise.mean == dataset.train.mean_and_std()[0]
    assert dataset.fingerprints["data"] == train.first(8).fingerprint() == dataset.train.fingerprint()


def test_what_is_held_out_of_train_is_the_same_with_and_without_dropping(monkeypatch):
    train = joined(images(40, seed=3), images(40, seed=3))
    parts = Parts(train, images(6, seed=1))
    usual, dropped = (loaded(monkeypatch, parts, drop, 10) for drop in (False, True))
    assert torch.equal(usual.val.images, dropped.val.images)
    assert usual.duplicates["val_in_train"] > 0
    assert equal_pairs(dropped.train, dropped.val) == set()
    assert len(dropped.train) == len(usual.train) - dropped.duplicates["dropped"]


def test_without_dropping_the_parts_are_those_of_the_source(monkeypatch, leaking):
    dataset = loaded(monkeypatch, leaking)
    for name in ("train", "val", "test"):
        assert getattr(dataset, name).images is getattr(leaking, name).images


def test_dropping_a_class_or_all_validation_images_is_refused(monkeypatch):
    train, test = images(20), images(8, seed=1)
    of_class_2 = picked(train, *range(2, 20, 4))
    with pytest.raises(UserError, match="no training images of class 2 "):
        loaded(monkeypatch, Parts(train, joined(test, of_class_2)), True, 0)
    with pytest.raises(UserError, match=r"no validation images .*--val-size 0"):
        loaded(monkeypatch, Parts(train, test, picked(test, 1, 2)), True)
    assert loaded(monkeypatch, Parts(train, test, picked(test, 1, 2)), True, 0).val is None
