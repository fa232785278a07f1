from dataclasses import replace
from types import SimpleNamespace

import pytest
from toys import CPU, NORMALISE, images

import utils.data.dataset
from utils.data.augment import Augmentation
from utils.data.dataset import Dataset, load_dataset
from utils.data.sources import Parts, load_images


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (64, 8), (28, 3), (7, 0), (224, 28)])
def test_padding_is_an_eighth_of_the_side_and_flips_are_as_the_images_allow(size, padding):
    for flip in (True, False):
        part = replace(images(4, size=size), flip=flip)
        dataset = Dataset(part, None, part, NORMALISE, {})
        assert dataset.augmentation(None, None, 0) == Augmentation(padding, flip, 0)
        assert dataset.augmentation(1, not flip, 5) == Augmentation(1, not flip, 5)


def test_training_batches_have_the_augmentation_and_evaluation_has_none():
    part = images(4)
    dataset = Dataset(part, part, part, NORMALISE, {})
    augmentation = Augmentation(2, False, 3)
    batches = dataset.training_batches(2, 7, augmentation, 5)
    assert (batches.batch_size, batches.seed, batches.augmentation, batches.views) == (2, 7, augmentation, 5)
    assert dataset.val_batches().seed is dataset.test_batches().seed is None


@pytest.mark.parametrize(
    ("limit", "val_size", "counts"),
    [(None, None, (180, 20, 60)), (50, None, (45, 5, 50)), (50, 0, (50, 0, 50)), (50, 7, (43, 7, 50))],
)
def test_a_tenth_is_held_out_unless_the_user_names_a_number(monkeypatch, limit, val_size, counts):
    monkeypatch.setattr(utils.data.dataset, "load_images", lambda *_, **__: Parts(images(200), images(60)))
    config = SimpleNamespace(
        dataset="any", data_dir="any", image_size=32, limit=limit, val_size=val_size, drop_duplicates=False
    )
    dataset = load_dataset(config, CPU)
    assert tuple(dataset.counts().values()) == counts
    assert set(dataset.fingerprints) == {"data", "test_data"} | ({"val_data"} if counts[1] else set())
    assert dataset.normalise.mean == dataset.train.mean_and_std()[0]


def test_an_unknown_source_is_a_key_error(tmp_path):
    with pytest.raises(KeyError):
        load_images("imagenet", tmp_path)
