import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import images

from utils.data.augment import Augmentation, View, draw_order
from utils.runtime.errors import UserError


def reference_crop(image: Tensor, padding: int, top: int, left: int, flip: int) -> Tensor:
    """uint8 [H, W, 3]: reflect-padded, sliced, then mirrored."""
    height, width, _ = image.shape
    padded = F.pad(image.permute(2, 0, 1)[None].float(), (padding,) * 4, mode="reflect")[0]
    crop = padded[:, top : top + height, left : left + width]
    return (crop.flip(2) if flip else crop).permute(1, 2, 0).to(torch.uint8)


def reference_erased(height: int, width: int, y: int, x: int, side: int) -> Tensor:
    erased = torch.zeros(height, width, dtype=torch.bool)
    top, left = y - side // 2, x - side // 2
    erased[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    return erased


@pytest.mark.parametrize(
    ("padding", "height", "width"), [(4, 32, 32), (4, 9, 12), (4, 5, 7), (0, 5, 7), (1, 6, 6), (7, 8, 8)]
)
def test_every_crop_and_flip_equals_padding_slicing_and_mirroring(padding, height, width):
    starts = torch.arange(2 * padding + 1)
    top, left, flip = torch.cartesian_prod(starts, starts, torch.arange(2)).T
    view, count = View(top, left, flip, top, top), len(top)
    pixels = torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(torch.uint8)
    indices = draw_order(0, 0, count)[: count - 1]
    crops, erased = Augmentation(padding).apply(pixels, indices, view)
    assert erased is None
    assert crops.dtype == torch.uint8
    for crop, index in zip(crops, indices.tolist(), strict=True):
        assert torch.equal(crop, reference_crop(pixels[index], padding, top[index], left[index], flip[index]))


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 40])
def test_cutout_erases_exactly_the_clipped_square(side):
    height, width = 9, 12
    y, x = torch.cartesian_prod(torch.arange(height), torch.arange(width)).T
    zeros = torch.zeros_like(y)
    pixels = torch.zeros(len(y), height, width, 3, dtype=torch.uint8)
    indices = torch.arange(len(y)).flip(0)
    _, erased = Augmentation(cutout=side).apply(pixels, indices, View(zeros, zeros, zeros, y, x))
    for row, index in enumerate(indices.tolist()):
        assert torch.equal(erased[row], reference_erased(height, width, y[index], x[index], side))


@pytest.mark.parametrize(
    ("seed", "number", "cutout", "digest"),
    [
        (0, 0, 0, "fa485cbdc161701e"),
        (0, 1, 8, "140e0f42b1f0248b"),
        (1, 2, 5, "7aafc7d7a7164c10"),
        (7, 0, 16, "8227e46eb3073e21"),
        (12345, 40, 1, "af901021ef481406"),
    ],
)
def test_views_orders_and_pixels_are_those_of_earlier_versions(seed, number, cutout, digest):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8))
    augmentation = Augmentation(cutout=cutout)
    view, order = augmentation.draw_view(seed, number, 60, 32), draw_order(seed, number, 60)
    results = [*view, order, *augmentation.apply(pixels, order, view)]
    content = b"".join(each.numpy().tobytes() for each in results if each is not None)
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_a_strong_view_changes_colours_and_erases_half_beside_the_usual_one():
    pixels, order = images(20, size=8).images, draw_order(0, 0, 20)[:6]
    strong = Augmentation(padding=1, strong=True)
    view = strong.draw_view(3, 0, 20, 8)
    both, erased = strong.apply(pixels, order, view)
    usual, none = Augmentation(padding=1).apply(pixels, order, view)
    assert none is None
    assert torch.equal(both[:6], usual)
    assert not erased[:6].any()
    for row, index in enumerate((order + 20).tolist()):
        places = (view.top, view.left, view.flip)
        crop = reference_crop(pixels[index - 20], 1, *(values[index] for values in places)).double()
        brightness, contrast, saturation = view.colour[index - 20].double().tolist()
        crop *= brightness
        grey = (crop * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).sum(2, keepdim=True)
        crop = grey + (crop - grey) * saturation
        expected = (grey.mean() + (crop - grey.mean()) * contrast).clamp(0, 255)
        assert (both[6 + row].double() - expected).abs().max() <= 0.51  # rounded
        assert torch.equal(erased[6 + row], reference_erased(8, 8, view.erase_y[index], view.erase_x[index], 4))


def test_without_padding_and_flip_every_view_shows_the_images_as_they_are():
    pixels = images(20, size=8).images
    augmentation = Augmentation(padding=0, flip=False)
    for number in range(3):
        view = augmentation.draw_view(0, number, 20, 8)
        assert torch.equal(augmentation.apply(pixels, torch.arange(20), view)[0], pixels)


def test_without_flip_crops_and_squares_are_the_same_and_nothing_is_mirrored():
    for number in range(3):
        with_flip = Augmentation().draw_view(0, number, 100, 32)
        without = Augmentation(flip=False).draw_view(0, number, 100, 32)
        assert not without.flip.any()
        for name in ("top", "left", "erase_y", "erase_x"):
            assert torch.equal(getattr(with_flip, name), getattr(without, name))


@pytest.mark.parametrize("padding", [1, 4])
def test_crops_and_erased_squares_are_drawn_evenly_from_their_whole_range(padding):
    view, starts = Augmentation(padding).draw_view(0, 0, 90_000, 32), 2 * padding + 1
    for values, choices in ((view.top, starts), (view.left, starts), (view.erase_y, 32), (view.erase_x, 32)):
        counts = values.bincount(minlength=choices).double()
        assert len(counts) == choices
        torch.testing.assert_close(counts, torch.full_like(counts, 90_000 / choices), rtol=0.1, atol=0)


def test_order_crop_flip_and_square_are_independent_of_each_other_of_epochs_and_of_seeds():
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        view = Augmentation().draw_view(seed, epoch, 20_000, 32)._asdict().items()
        # Sides of one image alternate between epochs, so only those of the first are independent.
        drawn += [values for name, values in view if name != "colour" and (name != "flip" or epoch == 0)]
        drawn.append(draw_order(seed, epoch, 20_000))
    correlation = np.corrcoef(torch.stack(drawn).double().numpy())
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 0.04


def test_flips_alternate_from_view_to_view_for_every_image():
    flips = torch.stack([Augmentation().draw_view(5, number, 1000, 32).flip for number in range(6)])
    assert ((flips == 0) | (flips == 1)).all()
    assert (flips[1:] + flips[:-1] == 1).all()
    assert 400 < flips[0].sum() < 600


def test_the_order_is_a_permutation_that_differs_by_epoch_and_seed_and_is_repeatable():
    orders = {(seed, epoch): draw_order(seed, epoch, 500) for seed in (0, 1, 10**18 - 1) for epoch in (0, 1, 2)}
    for order in orders.values():
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(500))
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    for (seed, epoch), order in reversed(orders.items()):
        assert torch.equal(draw_order(seed, epoch, 500), order)


@pytest.mark.parametrize("padding", [8, 9, 100])
def test_padding_of_a_whole_side_is_refused_and_the_largest_that_works_is_named(padding):
    with pytest.raises(UserError, match=f"--padding {padding} is too large for images of 8x8") as raised:
        Augmentation(padding).check(8)
    assert raised.value.hint == "the largest that works is 7"
    Augmentation(7).check(8)
