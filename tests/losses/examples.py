"""Outputs of networks that never were, and what the references of several methods compute with, in float64."""

import math

import torch
from torch import Tensor, nn

from utils.losses import METHODS, Outputs, build_method
from utils.losses.method import Method
from utils.losses.spec import method_class

END, LABELS = torch.tensor(1.0), torch.arange(8) % 10
STUDENT, TEACHER = (3, 5, 6), (4, 7, 9)  # channels of stages of 16, 8 and 4 pixels a side
NEEDS = {name: method_class(name).needs for name in METHODS}
ON_LOGITS = [name for name, needs in NEEDS.items() if needs in ("logits", "labels")]
BEYOND_LOGITS = [name for name in METHODS if name not in ON_LOGITS]


def logits(seed: int, rows: int = 8, classes: int = 10, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def outputs(
    seed: int, channels: tuple[int, ...] = STUDENT, rows: int = 8, classes: int = 10, dtype=torch.float32
) -> Outputs:
    """All that a method may ask for; the embedding has as many numbers as the last stage has channels."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=dtype)

    before = tuple(draw(rows, c, 16 >> i, 16 >> i) for i, c in enumerate(channels))
    head = draw(classes, channels[-1]), draw(classes)
    embedding = draw(rows, channels[-1])
    return Outputs(logits(seed, rows, classes, dtype), embedding, tuple(b.relu() for b in before), before, head)


def each(given: Outputs, change) -> Outputs:
    """`change` of every tensor but the head."""
    several = (tuple(change(tensor) for tensor in maps) for maps in (given.features, given.preactivations))
    return Outputs(change(given.logits), change(given.embedding), *several, given.head)


def leaves(given: Outputs) -> tuple[Outputs, list[Tensor]]:
    """The same outputs as tensors of their own that want a gradient, and these in a list."""
    given = each(given, lambda tensor: tensor.detach().clone().requires_grad_())
    return given, [given.logits, given.embedding, *given.features, *given.preactivations]


def adapted(spec: str, student: Outputs, teacher: Outputs, seed: int = 0) -> Method:
    """The method with trainable parts that are not as they begin: biases are not 0, scales not 1."""
    torch.manual_seed(seed)
    method = build_method(spec)
    if method.needs != "labels":
        method.adapt(student, teacher)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


def tiny(channels: tuple[int, ...] = STUDENT, classes: int = 4, seed: int = 0) -> nn.Module:
    """A network whose stages have 16, 8 and 4 pixels a side for images of 32."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        block = nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
        layers.append(nn.Sequential(*block))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


# What references are written with, in float64.


def softmax(row: Tensor, temperature: float = 1.0) -> list[float]:
    """The probabilities of logits [C]."""
    powers = [math.exp(value / temperature) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def convolved(maps: Tensor, layer: nn.Conv2d) -> Tensor:
    """A convolution of 1x1 or 3x3 with stride 1 that keeps the size, as a sum over its offsets."""
    weight, (height, width) = layer.weight.detach().double(), maps.shape[2:]
    size = weight.shape[2]
    padded = torch.zeros(*maps.shape[:2], height + size - 1, width + size - 1, dtype=torch.float64)
    border = size // 2
    padded[:, :, border : border + height, border : border + width] = maps
    result = torch.zeros(len(maps), len(weight), height, width, dtype=torch.float64)
    for y in range(size):
        for x in range(size):
            part = padded[:, :, y : y + height, x : x + width]
            result += torch.einsum("oi,bihw->bohw", weight[:, :, y, x], part)
    return result if layer.bias is None else result + layer.bias.detach().double()[:, None, None]


def batch_normalised(values: Tensor, layer: nn.Module) -> Tensor:
    """Batch norm in training mode of [B, c] or [B, c, h, w]."""
    result = torch.empty_like(values)
    for channel in range(values.shape[1]):
        own = values[:, channel]
        deviation = ((own - own.mean()) ** 2).mean().add(layer.eps).sqrt()
        scale, shift = layer.weight[channel].item(), layer.bias[channel].item()
        result[:, channel] = (own - own.mean()) / deviation * scale + shift
    return result


def connected(maps: Tensor, layers: nn.Sequential) -> Tensor:
    """A 1x1 or 3x3 convolution and batch norm."""
    return batch_normalised(convolved(maps, layers[0]), layers[1])
