from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.data.image_set import ImageSet
from utils.runtime.errors import UserError


def numbered_set(*class_counts: int) -> ImageSet:
    """Images that carry their own number, shuffled over classes of these sizes."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(class_counts)), class_counts))
    number = torch.arange(len(labels))
    images = torch.stack([number // 256, number % 256, torch.zeros_like(number)], -1).to(torch.uint8)
    return ImageSet(images[:, None, None, :], torch.from_numpy(labels), tuple("abcdefghij"[: len(class_counts)]))


def numbers(part: ImageSet) -> list[int]:
    pixels = part.images[:, 0, 0].long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def coloured_set() -> ImageSet:
    """More images than one chunk of the statistics, bright enough for sums beyond 32 bits."""
    random = np.random.default_rng(3)
    ranges = ((0, 256), (200, 256), (5, 40))
    pixels = [random.integers(low, high, (1100, 8, 8), dtype=np.uint8) for low, high in ranges]
    return ImageSet(torch.from_numpy(np.stack(pixels, -1)), torch.arange(1100) % 2, ("a", "b"))


def test_mean_and_standard_deviation_equal_numpy_s_in_float64():
    image_set = coloured_set()
    pixels = image_set.images.numpy().astype(np.float64)
    mean, std = image_set.mean_and_std()
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-9)


def test_what_identifies_earlier_runs_is_the_same_to_the_last_bit():
    image_set = coloured_set()
    assert image_set.fingerprint() == "33ab1b77c43dc1ad"
    mean = [127.51170454545455, 227.54130681818182, 22.064105113636362]
    assert image_set.mean_and_std() == (mean, [74.02159566212586, 16.17889244640157, 10.10483801601294])


@pytest.mark.parametrize("val_size", [1, 10, 37, 100, 199])
def test_the_validation_split_is_disjoint_complete_and_in_proportion_of_the_classes(val_size):
    image_set = numbered_set(100, 60, 30, 10)
    train, val = image_set.split(val_size)
    assert (len(train), len(val)) == (200 - val_size, val_size)
    assert sorted(numbers(train) + numbers(val)) == list(range(200))
    for part in (train, val):
        assert part.class_names == image_set.class_names
        assert torch.equal(part.labels, image_set.labels[numbers(part)])
        held = part.labels.bincount(minlength=4).double()
        assert (held - len(part) * torch.tensor([0.5, 0.3, 0.15, 0.05])).abs().max() <= 1


def test_the_validation_split_is_the_same_for_all_calls_and_seeds():
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        splits.append(numbers(numbered_set(50, 50).split(10)[1]))
    assert splits[0] == splits[1]


def test_the_validation_split_is_not_the_first_or_last_images_of_each_class():
    val = set(numbers(numbered_set(100, 100).split(20)[1]))
    assert 0 < len(val & set(range(100))) < 20
    assert len(val & set(range(30))) < 15
    assert len(val & set(range(170, 200))) < 15


def test_a_class_with_one_image_or_few_keeps_them_for_training():
    train, val = numbered_set(60, 1, 3).split(6)
    counts = train.labels.bincount(minlength=3).tolist()
    assert counts[1] == 1
    assert counts[2] >= 2
    assert len(val) == 6


def test_no_validation_part_leaves_the_training_set_as_it_is():
    train, val = numbered_set(5, 5).split(0)
    assert val is None
    assert numbers(train) == list(range(10))


@pytest.mark.parametrize("val_size", [10, 11, 5000])
def test_a_validation_part_that_leaves_nothing_to_train_on_is_refused(val_size):
    with pytest.raises(UserError, match=f"--val-size {val_size} leaves nothing of 10 training images"):
        numbered_set(5, 5).split(val_size)


@pytest.mark.parametrize("count", [4, 5, 30, 39])
def test_the_first_images_are_class_balanced_and_keep_their_order(count):
    image_set = numbered_set(20, 20, 20, 20)
    first = image_set.first(count)
    chosen = numbers(first)
    assert len(first) == count
    assert chosen == sorted(set(chosen))
    assert torch.equal(first.labels, image_set.labels[chosen])
    counts = first.labels.bincount(minlength=4)
    assert counts.max() - counts.min() <= 1
    for label in range(4):
        members = (image_set.labels == label).nonzero()[:, 0].tolist()
        assert set(members[: counts[label]]) <= set(chosen)


def test_the_first_images_take_all_of_a_class_that_runs_short():
    assert numbered_set(20, 2, 20).first(12).labels.bincount(minlength=3).tolist() == [5, 2, 5]


@pytest.mark.parametrize("count", [10, 11, 10**9])
def test_the_first_images_of_a_smaller_set_are_all_of_it(count):
    assert numbers(numbered_set(5, 5).first(count)) == list(range(10))


def test_fewer_first_images_than_classes_are_refused():
    with pytest.raises(UserError, match="--limit 2 is less than one image for each of 3 classes"):
        numbered_set(5, 5, 5).first(2)


def test_a_selection_is_a_copy_in_the_order_asked_for():
    image_set = numbered_set(3, 3)
    selection = image_set.select(torch.tensor([4, 1, 4]))
    assert numbers(selection) == [4, 1, 4]
    assert selection.labels.tolist() == [image_set.labels[index].item() for index in (4, 1, 4)]
    selection.images.zero_()
    assert numbers(image_set) == list(range(6))


def test_a_fingerprint_is_the_same_for_the_same_content():
    image_set = coloured_set()
    strided = image_set.images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert replace(image_set, images=strided).fingerprint() == image_set.fingerprint()


def test_a_fingerprint_changes_with_one_pixel_one_label_a_class_name_the_order_and_the_shape():
    image_set = coloured_set().select(torch.arange(6))
    pixel, label = image_set.images.clone(), image_set.labels.clone()
    pixel[5, 7, 7, 2] ^= 1
    label[5] = 1 - label[5]
    changed = [
        image_set,
        replace(image_set, images=pixel),
        replace(image_set, labels=label),
        replace(image_set, class_names=("a", "c")),
        replace(image_set, class_names=("ab", "")),
        image_set.select(torch.arange(6).flip(0)),
        replace(image_set, images=image_set.images.view(6, 4, 16, 3)),
        image_set.select(torch.arange(5)),
    ]
    assert len({each.fingerprint() for each in changed}) == len(changed)


def test_whether_images_may_be_flipped_goes_with_every_part_of_them_and_not_into_the_fingerprint():
    digits = replace(numbered_set(20, 20), flip=False)
    parts = [*digits.split(10), digits.first(5), digits.select(torch.arange(3)), digits.to(torch.device("cpu"))]
    assert [part.flip for part in parts] == [False] * 5
    assert digits.fingerprint() == replace(digits, flip=True).fingerprint()
