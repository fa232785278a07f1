"""Small networks and images that train in moments."""

import torch
from torch import nn

from utils.data.batches import Batches, Normalise
from utils.data.image_set import ImageSet
from utils.runtime.device import Compute
from utils.training.loop import Schedule, TrainState

CPU = Compute(torch.device("cpu"), "fp32")
NORMALISE = Normalise([127.0] * 3, [64.0] * 3)


def images(count: int = 100, classes: int = 4, seed: int = 0, size: int = 32) -> ImageSet:
    """Noise whose brightness gives away the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 80, (count, size, size, 3), generator=random) + 40 * labels[:, None, None, None]
    return ImageSet(pixels.to(torch.uint8), labels, tuple(f"class {number}" for number in range(classes)))


def batches(count: int = 100, batch_size: int = 32, seed: int | None = 0, classes: int = 4) -> Batches:
    return Batches(images(count, classes), NORMALISE, batch_size, seed)


def network(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, classes))


def training(epochs: int = 3, steps: int = 4, seed: int = 0, **settings) -> TrainState:
    return TrainState(network(seed=seed), Schedule(epochs, steps, lr=0.05, **settings))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
