"""An embedded data set: ten kinds of shapes in cluttered 32x32 scenes, drawn at once and never downloaded.

Each shape has a random position, size, angle, pair of colours and softness; behind it are a shaded, striped
background and other, smaller blobs; over it are a bar that hides a part of it and noise. Drawn from signed
distances (negative inside), so that edges are smooth without drawing anything larger.
"""

import math

import numpy as np
import torch
from torch import Tensor

from utils.data.image_set import ImageSet
from utils.data.sources import Parts, Request

SIZE = 32
TRAIN, TEST = 6000, 4000
CHUNK = 200  # scenes drawn at once: what fits in a processor's cache
CLASSES = ("disc", "ring", "square", "triangle", "pentagon", "star", "cross", "crescent", "heart", "arrow")


def load(request: Request) -> Parts:
    """Draw the training and the test images; the same ones every time."""
    return Parts(None if request.test_only else draw(TRAIN, seed=1), draw(TEST, seed=2))


def draw(count: int, seed: int) -> ImageSet:
    """Draw `count` scenes, the classes in turn: uint8 [count, 32, 32, 3]."""
    labels = torch.arange(count) % len(CLASSES)
    parts = labels.split(CHUNK)
    images = [_scenes(part, np.random.default_rng((seed, number))) for number, part in enumerate(parts)]
    return ImageSet(torch.cat(images), labels, CLASSES)


def _scenes(labels: Tensor, random: np.random.Generator) -> Tensor:
    """A scene for each label, uint8 [n, 32, 32, 3]."""
    count = len(labels)

    def uniform(low: float, high: float, *more: int) -> Tensor:
        """[n, 1, 1, *more]"""
        return torch.from_numpy(random.uniform(low, high, (count, 1, 1, *more)).astype(np.float32))

    axis = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1  # -1 to 1 over the image
    y, x = axis.view(1, SIZE, 1), axis.view(1, 1, SIZE)

    angle = uniform(0, 2 * math.pi)
    wave = torch.sin((x * angle.cos() + y * angle.sin()) * uniform(4, 18) + uniform(0, 2 * math.pi))
    shade = x * uniform(-0.35, 0.35) + y * uniform(-0.35, 0.35) + wave * uniform(0, 0.12)
    scene = uniform(0.15, 0.85, 3) + shade[..., None] * uniform(0.4, 1, 3)
    for _ in range(2):
        u, v, _ = _moved(x, y, uniform)
        _paint(scene, torch.hypot(u, v) - uniform(0.06, 0.18), uniform(0, 1, 3), 14)

    u, v, size = _moved(x, y, uniform, reach=0.3, sizes=(0.45, 0.75), turn=0.5)
    distance = torch.empty(count, SIZE, SIZE)
    for label, shape in enumerate(SHAPES):
        members = labels == label
        distance[members] = shape(u[members], v[members])
    colour = uniform(0, 1, 3) + (wave * uniform(-0.25, 0.25))[..., None]
    _paint(scene, distance * size, colour, uniform(7, 16))

    u, _, _ = _moved(x, y, uniform)
    _paint(scene, u.abs() - uniform(-0.05, 0.07), uniform(0, 1, 3), 14)
    noise = torch.from_numpy(random.standard_normal((count, SIZE, SIZE, 3), dtype=np.float32))
    scene += noise * uniform(0, 0.06, 1)
    return scene.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _moved(x: Tensor, y: Tensor, uniform, reach=0.9, sizes=(1, 1), turn=math.pi):
    """Coordinates u, v [n, 32, 32] of a shifted, turned and scaled frame, and its scale [n, 1, 1]."""
    angle, size = uniform(-turn, turn), uniform(*sizes)
    x, y = x - uniform(-reach, reach), y - uniform(-reach, reach)
    cos, sin = angle.cos() / size, angle.sin() / size
    return x * cos + y * sin, y * cos - x * sin, size


def _paint(scene: Tensor, distance: Tensor, colour: Tensor, sharpness: float | Tensor) -> None:
    """Lay `colour` over the pixels where `distance` is negative; a sharpness of 16 is an edge of one pixel."""
    cover = (0.5 - distance * sharpness).clamp_(0, 1)[..., None]
    scene.addcmul_(cover, colour - scene)


# Signed distances of shapes of about unit radius, [n, 32, 32].


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.9


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.7).abs() - 0.22


def _box(u: Tensor, v: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(u.abs() - width, v.abs() - height)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v, 0.78, 0.78)


def _polygon(u: Tensor, v: Tensor, corners: int) -> Tensor:
    sector = 2 * math.pi / corners
    angle = torch.remainder(torch.atan2(v, u), sector) - sector / 2
    return torch.hypot(u, v) * angle.cos() - math.cos(sector / 2)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return _polygon(u, v, 3)


def _pentagon(u: Tensor, v: Tensor) -> Tensor:
    return _polygon(u, v, 5)


def _star(u: Tensor, v: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    angle = (torch.remainder(torch.atan2(v, u), sector) - sector / 2).abs()
    # The edge runs from a corner of radius 1.1 (angle 0) to a notch of radius 0.45 (half a sector away).
    radius = torch.hypot(u, v)
    normal = torch.tensor([0.45 * math.sin(sector / 2), 1.1 - 0.45 * math.cos(sector / 2)])
    normal = normal / normal.norm()
    angle = sector / 2 - angle
    return (radius * angle.cos() - 1.1) * normal[0] + radius * angle.sin() * normal[1]


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u, v, 0.3, 1), _box(u, v, 1, 0.3))


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v) - 0.95, 0.75 - torch.hypot(u - 0.45, v))


def _heart(u: Tensor, v: Tensor) -> Tensor:
    u, v = u.abs(), v + 0.25
    lobes = torch.hypot(u - 0.42, v - 0.35) - 0.52
    tip = torch.maximum((u * 0.82 - v * 0.57) - 0.5, v - 0.45)
    return torch.minimum(lobes, torch.maximum(tip, -v - 1.1))


def _arrow(u: Tensor, v: Tensor) -> Tensor:
    head = torch.maximum((u.abs() * 0.8 + v * 0.6) - 0.6, -v)
    return torch.minimum(head, _box(u, v + 0.5, 0.22, 0.5))


SHAPES = (_disc, _ring, _square, _triangle, _pentagon, _star, _cross, _crescent, _heart, _arrow)
