import numpy as np
import pytest
import torch
from toys import images

from utils.data.augment import Augmentation, draw_order
from utils.data.batches import Batch, Batches, Normalise
from utils.data.image_set import ImageSet
from utils.runtime.errors import UserError

RAW = Normalise([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
CUTOUT = Augmentation(cutout=3)


def small_set(count: int) -> ImageSet:
    return images(count, classes=3, size=8)


def epoch_of(batches: Batches, epoch: int) -> Batch:
    """A whole epoch as one batch."""
    return Batch(*map(torch.cat, zip(*batches.epoch(epoch), strict=True)))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("views", "number"), [(0, 5), (3, 2), (1, 0)])
def test_an_epoch_serves_the_augmented_images_of_its_view_in_its_order_with_their_labels(views, number):
    image_set = small_set(50)
    normalise = Normalise([100.0, 120.0, 140.0], [50.0, 60.0, 70.0])
    batches = Batches(image_set, normalise, 16, seed=7, augmentation=CUTOUT, views=views)
    view, order = CUTOUT.draw_view(7, number, 50, 8), draw_order(7, 5, 50)
    pixels, erased = CUTOUT.apply(image_set.images, order, view)
    expected = (pixels - torch.tensor(normalise.mean)) / torch.tensor(normalise.std)
    expected[erased] = 0  # the mean of the training images
    batch = epoch_of(batches, 5)
    torch.testing.assert_close(batch.images, expected.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert (batch.images.permute(0, 2, 3, 1)[erased] == 0).all()
    assert torch.equal(batch.indices, order)
    assert torch.equal(batch.labels, image_set.labels[order])


def test_batches_depend_on_nothing_but_seed_and_epoch_and_leave_the_global_random_state_alone():
    image_set, epochs = small_set(41), {}
    for run, order in enumerate(((0, 1, 2, 3), (3, 1, 0, 2))):
        torch.manual_seed(run)
        np.random.seed(run)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        batches = Batches(image_set, RAW, 8, seed=3, augmentation=CUTOUT)
        for epoch in order:
            batch = epoch_of(batches, epoch)
            assert same(epochs.setdefault(epoch, batch), batch)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()
    assert not any(same(epochs[a], epochs[b]) for a in range(4) for b in range(a))
    other = Batches(image_set, RAW, 8, seed=4, augmentation=CUTOUT)
    assert not any(same(epoch_of(other, epoch), epochs[epoch]) for epoch in range(4))


def test_an_image_is_the_same_in_an_epoch_for_any_batch_size():
    large, small = (
        epoch_of(Batches(small_set(30), RAW, size, seed=0, augmentation=CUTOUT), 1) for size in (30, 7)
    )
    assert same(large, small)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(12, 4, [4, 4, 4]), (10, 4, [4, 4, 2]), (3, 4, [3]), (1, 4, [1]), (5, 1, [1] * 5), (7, 7, [7])],
)
def test_every_image_is_served_once_in_an_epoch_and_the_last_batch_may_be_smaller(count, batch_size, sizes):
    batches = Batches(small_set(count), RAW, batch_size, seed=0)
    for epoch in range(3):
        served = list(batches.epoch(epoch))
        assert [len(batch.images) for batch in served] == [len(batch.labels) for batch in served] == sizes
        assert sorted(torch.cat([batch.indices for batch in served]).tolist()) == list(range(count))
    assert (batches.num_images, len(batches)) == (count, len(sizes))


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(9, 4, [4, 4]), (5, 4, [4]), (3, 2, [2])])
def test_a_last_batch_of_one_is_left_out_and_num_images_says_so(count, batch_size, sizes):
    batches = Batches(small_set(count), RAW, batch_size, seed=0)
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
    image_set = small_set(9)
    batches = Batches(image_set, RAW, 4)
    assert (batches.num_images, len(batches)) == (9, 3)
    assert [len(batch.images) for batch in batches.epoch(0)] == [4, 4, 1]
    served = epoch_of(batches, 5)
    assert served.indices.tolist() == list(range(9))
    assert torch.equal(served.labels, image_set.labels)
    assert torch.equal(served.images, image_set.images.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_are_float32_in_channels_last(seed):
    for batch in Batches(small_set(10), RAW, 4, seed, CUTOUT).epoch(0):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[1:] == (3, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64


def test_normalisation_gives_the_training_set_zero_mean_and_unit_variance():
    image_set = images(300)
    served = epoch_of(Batches(image_set, Normalise(*image_set.mean_and_std()), 100), 0).images
    pixels = image_set.images.numpy().astype(np.float64)
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(served.permute(0, 2, 3, 1).numpy(), expected, atol=5e-6)
    np.testing.assert_allclose(served.double().mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(served.double().var((0, 2, 3)), 1, atol=1e-5)


def test_a_constant_channel_is_normalised_to_zero():
    grey = ImageSet(torch.full((4, 8, 8, 3), 77, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"))
    served = epoch_of(Batches(grey, Normalise(*grey.mean_and_std()), 4), 0)
    np.testing.assert_allclose(served.images.numpy(), 0, atol=1e-4)


def test_padding_that_the_images_do_not_allow_is_refused_before_the_first_epoch():
    with pytest.raises(UserError, match="--padding 8 "):
        Batches(small_set(4), RAW, 2, seed=0, augmentation=Augmentation(padding=8))
