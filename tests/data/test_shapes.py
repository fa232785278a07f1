from itertools import combinations

import numpy as np
import pytest
import torch

from utils.data.sources import load_images, shapes


@pytest.fixture(scope="module")
def drawn():
    return load_images("shapes", "nowhere")


def test_shapes_are_balanced_uint8_images_of_ten_named_classes(drawn):
    for part, count in zip(drawn[:2], (6000, 4000), strict=True):
        assert part.images.shape == (count, 32, 32, 3)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.images.is_contiguous()
        assert part.labels.bincount().tolist() == [count // 10] * 10
        assert len(set(part.class_names)) == 10


def test_the_test_part_alone_is_the_same(drawn):
    parts = load_images("shapes", "nowhere", test_only=True)
    assert parts.train is None
    assert parts.test.fingerprint() == drawn.test.fingerprint()


def test_shapes_are_the_same_in_every_draw_whatever_the_global_random_state_and_threads():
    threads = torch.get_num_threads()
    draws = []
    for number in (1, 2):
        torch.manual_seed(number)
        np.random.seed(number)
        torch.set_num_threads(number)
        draws.append(shapes.draw(100, seed=3).fingerprint())
    torch.set_num_threads(threads)
    assert draws[0] == draws[1] != shapes.draw(100, seed=4).fingerprint()


def test_no_shape_is_drawn_twice_and_none_of_the_test_images_is_a_training_image(drawn):
    images = {image.numpy().tobytes() for part in drawn[:2] for image in part.images}
    assert len(images) == 10_000


def test_every_pair_of_shapes_differs_in_the_same_scene():
    scenes = []
    for label in range(10):
        labels = torch.full((20,), label)
        scenes.append(shapes._scenes(labels, np.random.default_rng(0)).int())
    for one, other in combinations(scenes, 2):
        visibly = ((one - other).abs().amax(-1) > 32).float().mean((1, 2))
        assert visibly.median() > 0.02
