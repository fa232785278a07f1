from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data.augment import PAD, View, augment, draw_order, draw_view
from utils.data.batches import Batch, Batches, Normalise
from utils.data.image_set import ImageSet
from utils.runtime.errors import UserError

RAW = Normalise([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def random_set(count: int, size: int = 8, classes: int = 3, seed: int = 0) -> ImageSet:
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, classes, count))
    return ImageSet(images, labels, tuple("abcdefghij"[:classes]))


def numbered_set(*class_counts: int) -> ImageSet:
    """Images that carry their own number, shuffled over classes of these sizes."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(class_counts)), class_counts))
    number = torch.arange(len(labels))
    images = torch.stack([number // 256, number % 256, torch.zeros_like(number)], -1).to(torch.uint8)
    return ImageSet(images[:, None, None, :], torch.from_numpy(labels), tuple("abcdefghij"[: len(class_counts)]))


def numbers(part: ImageSet) -> list[int]:
    pixels = part.images[:, 0, 0].long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def reference_crop(image: Tensor, top: int, left: int, flip: int) -> Tensor:
    """uint8 [H, W, 3]: reflect-padded by 4, sliced, then mirrored."""
    height, width, _ = image.shape
    padded = F.pad(image.permute(2, 0, 1)[None].float(), (4, 4, 4, 4), mode="reflect")[0]
    crop = padded[:, top : top + height, left : left + width]
    return (crop.flip(2) if flip else crop).permute(1, 2, 0).to(torch.uint8)


def reference_erased(height: int, width: int, y: int, x: int, side: int) -> Tensor:
    erased = torch.zeros(height, width, dtype=torch.bool)
    top, left = y - side // 2, x - side // 2
    erased[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    return erased


def every_crop_and_flip() -> View:
    top, left, flip = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2)).T
    return View(top, left, flip, torch.zeros_like(top), torch.zeros_like(top))


def epoch_of(batches: Batches, epoch: int) -> Batch:
    """A whole epoch as one batch."""
    return Batch(*map(torch.cat, zip(*batches.epoch(epoch), strict=True)))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 12), (5, 7)])
def test_every_crop_and_flip_equals_padding_slicing_and_mirroring(height, width):
    view = every_crop_and_flip()
    count = len(view.top)
    images = torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    indices = torch.from_numpy(np.random.default_rng(0).permutation(count))[: count - 5]
    pixels, erased = augment(images, indices, view, cutout=0)
    assert erased is None
    assert pixels.dtype == torch.uint8
    for row, index in enumerate(indices.tolist()):
        expected = reference_crop(images[index], view.top[index], view.left[index], view.flip[index])
        assert torch.equal(pixels[row], expected)


def test_an_epoch_of_batches_equals_the_reference_image_by_image():
    image_set = random_set(50, size=32)
    view = draw_view(7, 3, 50, 32)
    served = epoch_of(Batches(image_set, RAW, 16, seed=7), 3)
    assert torch.equal(served.indices, draw_order(7, 3, 50))
    assert torch.equal(served.labels, image_set.labels[served.indices])
    for row, index in enumerate(served.indices.tolist()):
        expected = reference_crop(image_set.images[index], view.top[index], view.left[index], view.flip[index])
        assert torch.equal(served.images[row], expected.permute(2, 0, 1).float())


def test_crops_and_erased_squares_are_drawn_evenly_from_their_whole_range():
    view = draw_view(0, 0, 90_000, 32)
    for values, choices in (
        (view.top, 2 * PAD + 1),
        (view.left, 2 * PAD + 1),
        (view.erase_y, 32),
        (view.erase_x, 32),
    ):
        counts = values.bincount(minlength=choices).double()
        assert len(counts) == choices
        torch.testing.assert_close(counts, torch.full_like(counts, 90_000 / choices), rtol=0.1, atol=0)


def test_places_crops_flips_and_squares_are_independent_of_each_other_of_epochs_and_of_seeds():
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        view = draw_view(seed, epoch, 20_000, 32)._asdict().items()
        # Sides of one image alternate between epochs, so only those of the first are independent.
        drawn += [values for name, values in view if name != "flip" or epoch == 0]
        drawn.append(draw_order(seed, epoch, 20_000))
    correlation = np.corrcoef(torch.stack(drawn).double().numpy())
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 0.04


def test_flips_alternate_from_epoch_to_epoch_for_every_image():
    flips = torch.stack([draw_view(5, epoch, 1000, 32).flip for epoch in range(6)])
    assert ((flips == 0) | (flips == 1)).all()
    assert (flips[1:] + flips[:-1] == 1).all()
    assert 400 < flips[0].sum() < 600


def test_the_first_sides_differ_by_seed():
    assert not torch.equal(draw_view(0, 0, 1000, 32).flip, draw_view(1, 0, 1000, 32).flip)


def test_the_order_is_a_permutation_that_differs_by_epoch_and_seed_and_is_repeatable():
    orders = {(seed, epoch): draw_order(seed, epoch, 500) for seed in (0, 1, 10**18 - 1) for epoch in (0, 1, 2)}
    for order in orders.values():
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(500))
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    for (seed, epoch), order in reversed(orders.items()):
        assert torch.equal(draw_order(seed, epoch, 500), order)


def test_batches_depend_on_nothing_but_seed_and_epoch():
    image_set = random_set(41)
    torch.manual_seed(1)
    np.random.seed(1)
    batches = Batches(image_set, RAW, 8, seed=3, cutout=3)
    first = [epoch_of(batches, epoch) for epoch in range(4)]
    torch.manual_seed(2)
    np.random.seed(2)
    again = Batches(image_set, RAW, 8, seed=3, cutout=3)
    for epoch in (3, 1, 0, 2):
        assert same(epoch_of(again, epoch), first[epoch])
    assert not any(same(first[a], first[b]) for a in range(4) for b in range(a))
    other = Batches(image_set, RAW, 8, seed=4, cutout=3)
    assert not any(same(epoch_of(other, epoch), first[epoch]) for epoch in range(4))


def test_serving_batches_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    epoch_of(Batches(random_set(20), RAW, 8, seed=3, cutout=3), 0)
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()


def test_two_epochs_may_be_served_at_the_same_time():
    batches = Batches(random_set(20), RAW, 8, seed=3)
    interleaved = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    for epoch in (0, 1):
        alone = list(batches.epoch(epoch))
        assert all(same(pair[epoch], batch) for pair, batch in zip(interleaved, alone, strict=True))


def test_an_image_looks_the_same_in_an_epoch_for_any_batch_size():
    image_set = random_set(30)
    large, small = (epoch_of(Batches(image_set, RAW, size, seed=0, cutout=2), 1) for size in (30, 7))
    assert same(large, small)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(12, 4, [4, 4, 4]), (10, 4, [4, 4, 2]), (3, 4, [3]), (1, 4, [1]), (5, 1, [1] * 5), (7, 7, [7])],
)
def test_every_image_is_served_once_in_an_epoch_and_the_last_batch_may_be_smaller(count, batch_size, sizes):
    batches = Batches(random_set(count), RAW, batch_size, seed=0)
    for epoch in range(3):
        served = list(batches.epoch(epoch))
        assert [len(batch.images) for batch in served] == [len(batch.labels) for batch in served] == sizes
        assert sorted(torch.cat([batch.indices for batch in served]).tolist()) == list(range(count))
    assert (batches.num_images, len(batches)) == (count, len(sizes))


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(9, 4, [4, 4]), (5, 4, [4]), (3, 2, [2])])
def test_a_last_batch_of_one_is_left_out_and_num_images_says_so(count, batch_size, sizes):
    batches = Batches(random_set(count), RAW, batch_size, seed=0)
    assert (batches.num_images, len(batches)) == (count - 1, len(sizes))
    left_out = set()
    for epoch in range(40):
        served = list(batches.epoch(epoch))
        assert [len(batch.images) for batch in served] == sizes
        indices = torch.cat([batch.indices for batch in served]).tolist()
        assert len(set(indices)) == count - 1
        left_out |= set(range(count)) - set(indices)
    assert left_out == set(range(count))


def test_evaluation_serves_every_image_as_it_is_and_in_order_the_last_one_too():
    image_set = random_set(9)
    batches = Batches(image_set, RAW, 4)
    assert (batches.num_images, len(batches)) == (9, 3)
    assert [len(batch.images) for batch in batches.epoch(0)] == [4, 4, 1]
    served = epoch_of(batches, 5)
    assert served.indices.tolist() == list(range(9))
    assert torch.equal(served.labels, image_set.labels)
    assert torch.equal(served.images, image_set.images.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_are_float32_in_channels_last(seed):
    for batch in Batches(random_set(10), RAW, 4, seed=seed, cutout=2).epoch(0):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[1:] == (3, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 40])
def test_cutout_erases_exactly_the_clipped_square(side):
    height, width = 9, 12
    y, x = torch.cartesian_prod(torch.arange(height), torch.arange(width)).T
    zeros = torch.zeros_like(y)
    view = View(zeros + PAD, zeros + PAD, zeros, y, x)
    images = torch.zeros(len(y), height, width, 3, dtype=torch.uint8)
    indices = torch.arange(len(y)).flip(0)
    _, erased = augment(images, indices, view, side)
    for row, index in enumerate(indices.tolist()):
        assert torch.equal(erased[row], reference_erased(height, width, y[index], x[index], side))


def test_erased_pixels_are_zero_after_normalisation_and_all_others_are_untouched():
    image_set = random_set(40, size=32)
    normalise = Normalise([100.0, 120.0, 140.0], [50.0, 60.0, 70.0])
    plain = epoch_of(Batches(image_set, normalise, 16, seed=0), 2)
    cut = epoch_of(Batches(image_set, normalise, 16, seed=0, cutout=9), 2)
    view = draw_view(0, 2, 40, 32)
    assert torch.equal(plain.indices, cut.indices)
    for row, index in enumerate(cut.indices.tolist()):
        erased = reference_erased(32, 32, view.erase_y[index], view.erase_x[index], 9)
        assert torch.equal(cut.images[row], plain.images[row].masked_fill(erased, 0))


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


def test_normalisation_gives_the_training_set_zero_mean_and_unit_variance():
    image_set = coloured_set()
    images = epoch_of(Batches(image_set, Normalise(*image_set.mean_and_std()), 500), 0).images
    pixels = image_set.images.numpy().astype(np.float64)
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=5e-6)
    normalised = images.double().numpy()
    np.testing.assert_allclose(normalised.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(normalised.var((0, 2, 3)), 1, atol=1e-6)


def test_a_constant_channel_is_normalised_to_zero():
    images = torch.full((4, 8, 8, 3), 77, dtype=torch.uint8)
    image_set = ImageSet(images, torch.arange(4) % 2, ("a", "b"))
    served = epoch_of(Batches(image_set, Normalise(*image_set.mean_and_std()), 4), 0)
    np.testing.assert_allclose(served.images.numpy(), 0, atol=1e-4)


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
    image_set = numbered_set(50, 50)
    torch.manual_seed(1)
    np.random.seed(1)
    first = numbers(image_set.split(10)[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert numbers(image_set.split(10)[1]) == first


def test_the_validation_split_is_not_the_first_or_last_images_of_each_class():
    val = set(numbers(numbered_set(100, 100).split(20)[1]))
    assert 0 < len(val & set(range(100))) < 20
    assert len(val & set(range(30))) < 15
    assert len(val & set(range(170, 200))) < 15


def test_a_class_with_one_image_or_few_keeps_them_for_training():
    image_set = numbered_set(60, 1, 3)
    train, val = image_set.split(6)
    assert train.labels.bincount(minlength=3).tolist()[1] == 1
    assert train.labels.bincount(minlength=3).tolist()[2] >= 2
    assert len(val) == 6


def test_no_validation_part_leaves_the_training_set_as_it_is():
    image_set = numbered_set(5, 5)
    train, val = image_set.split(0)
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


def test_a_selection_is_a_copy():
    image_set = random_set(6)
    before = image_set.images.clone()
    image_set.select(torch.tensor([1, 4])).images.zero_()
    assert torch.equal(image_set.images, before)


def test_a_fingerprint_is_the_same_for_the_same_content():
    image_set = random_set(6)
    copy = ImageSet(image_set.images.clone(), image_set.labels.clone(), tuple(image_set.class_names))
    assert copy.fingerprint() == image_set.fingerprint()
    strided = image_set.images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert replace(image_set, images=strided).fingerprint() == image_set.fingerprint()


def test_a_fingerprint_changes_with_one_pixel_one_label_a_class_name_the_order_and_the_shape():
    image_set = random_set(6)
    pixel, label = image_set.images.clone(), image_set.labels.clone()
    pixel[5, 7, 7, 2] ^= 1
    label[5] = (label[5] + 1) % 3
    changed = [
        image_set,
        replace(image_set, images=pixel),
        replace(image_set, labels=label),
        replace(image_set, class_names=("a", "b", "d")),
        replace(image_set, class_names=("a", "bc", "")),
        replace(image_set, class_names=("ab", "c", "")),
        image_set.select(torch.arange(6).flip(0)),
        replace(image_set, images=image_set.images.view(6, 4, 16, 3)),
        image_set.select(torch.arange(5)),
    ]
    assert len({each.fingerprint() for each in changed}) == len(changed)
