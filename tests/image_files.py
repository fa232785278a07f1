"""Image files of known pixels, and folders of them."""

from pathlib import Path

import numpy as np
from PIL import Image


def quadrants(size: int = 32) -> np.ndarray:
    """uint8 [size, size, 3]: red, green; blue, grey."""
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    half = size // 2
    pixels[:half, :half], pixels[:half, half:] = (220, 30, 20), (10, 200, 40)
    pixels[half:, :half], pixels[half:, half:] = (30, 20, 210), (90, 90, 90)
    return pixels


def ramp() -> np.ndarray:
    """Every grey level four times, uint8 [32, 32]."""
    return (np.arange(1024) % 256).astype(np.uint8).reshape(32, 32)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def solid(*colour: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def make_tree(root: Path) -> Path:
    """Two classes of three training images and a test image each; each image has a colour of its own."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(3):
            save(root / "train" / name / f"{index}.png", solid(100 * number, 20 * index, 7))
        save(root / "test" / name / "0.png", solid(100 * number, 90, 200))
    return root
