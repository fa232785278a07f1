"""Which mean and standard deviation of the pixels a file of another program tells."""

import numpy as np
import pytest
import torch

from utils.runtime.files import Unread
from utils.runtime.normalisation import choose_normalisation, to_unit

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as everybody writes them
OF_IMAGES = {"mean": [120.0, 121.0, 122.0], "std": [60.0, 61.0, 62.0]}
WEIGHTS = {"conv.weight": torch.ones(3, 3), "bn.running_mean": torch.zeros(3), "bn.running_var": torch.ones(3)}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"state_dict": WEIGHTS, "mean": MEAN, "std": STD}, "mean"),
        ({"state_dict": WEIGHTS, "mean": tuple(MEAN), "std": tuple(STD)}, "mean"),
        ({"state_dict": WEIGHTS, "args": {"norm_mean": MEAN, "norm_std": STD}}, "args.norm_mean"),
        ({"model": WEIGHTS, "cfg": {"data": {"image_mean": MEAN, "image_std": STD}}}, "cfg.data.image_mean"),
        (WEIGHTS | {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}, "normalize.mean"),
        (WEIGHTS | {"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": torch.tensor(STD)}, "mean"),
        ({"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}, "mean"),
    ],
)
def test_a_pair_of_three_numbers_anywhere_in_a_file_is_used_and_named(content, name):
    normalisation, line = choose_normalisation(content, None, OF_IMAGES)
    for part, expected in (("mean", MEAN), ("std", STD)):
        np.testing.assert_allclose(normalisation[part], 255 * np.array(expected), rtol=1e-6)
        np.testing.assert_allclose(to_unit(normalisation)[part], expected, atol=1e-6)
    assert line == (
        f"normalised with its own {name}: mean 0.485,0.456,0.406 and std 0.229,0.224,0.225 "
        "(--teacher-mean and --teacher-std set another)"
    )


def test_pixels_that_are_only_scaled_come_with_either_scale():
    for std in (1.0, 255.0):
        normalisation, _ = choose_normalisation({"mean": [0.0] * 3, "std": [std] * 3}, None, OF_IMAGES)
        assert normalisation == {"mean": [0.0] * 3, "std": [255.0] * 3}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"mean": MEAN},
        {"mean": MEAN, "std": STD[:2]},
        {"mean": 0.5, "std": 0.5},
        {"mean": "0.1", "std": "abc"},
        {"mean": [float("nan")] * 3, "std": STD},
        {"mean": Unread(), "std": Unread()},
        {"mean": torch.zeros(3, dtype=torch.complex64), "std": torch.ones(3)},
        {"bn.running_mean": torch.zeros(3), "bn.running_std": torch.ones(4)},
        {3: {"mean": MEAN}, "std": STD},
    ],
)
def test_without_one_that_of_the_images_is_assumed_in_a_line_that_names_the_flags(content):
    normalisation, line = choose_normalisation(content, None, OF_IMAGES)
    assert normalisation == OF_IMAGES
    assert line == (
        "it does not tell its normalisation; assumed is that of the images here, mean 0.4706,0.4745,0.4784 and "
        "std 0.2353,0.2392,0.2431 (--teacher-mean and --teacher-std set it)"
    )


@pytest.mark.parametrize(
    ("mean", "std"),
    [([-0.1, 0.5, 0.5], STD), (MEAN, [0.2, 0.0, 0.2]), ([300.0, 1, 1], [60.0] * 3), ([120.0] * 3, [0.2] * 3)],
)
def test_one_that_cannot_be_of_pixels_is_named_and_not_used(mean, std):
    normalisation, line = choose_normalisation({"mean": mean, "std": std}, None, OF_IMAGES)
    assert normalisation == OF_IMAGES
    assert line.startswith(
        f"its mean {mean}, with {std}, is not that of pixels; it does not tell its normalisation"
    )


def test_names_in_a_file_cannot_steer_the_terminal():
    _, line = choose_normalisation({"\x1b[2J\nmean": MEAN, "\x1b[2J\nstd": STD}, None, OF_IMAGES)
    assert line.isprintable()
