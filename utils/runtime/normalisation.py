"""How the pixels were normalised that a network of another program was trained with, as its file tells it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from utils.runtime.errors import printable

Normalisation = dict[str, list[float]]  # "mean" and "std" of the channels R, G, B on the scale 0 to 255
Explicit = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std on the scale 0 to 1, as flags give them
FLAGS = "--teacher-mean and --teacher-std"


def from_unit(mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    """From the scale 0 to 1."""
    return {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}


def to_unit(normalisation: Normalisation) -> Normalisation:
    """To the scale 0 to 1, rounded to what differs for no pixel."""
    return {name: [round(value / 255, 6) for value in values] for name, values in normalisation.items()}


def choose_normalisation(
    content: dict[str, Any], explicit: Explicit | None, images: Normalisation
) -> tuple[Normalisation, str]:
    """The normalisation of a network that a file of another program holds, and a line on whose it is.

    In this order: the `explicit` one, that of the file, and, since most files tell none, that of the `images`.
    What the file has must be plausible: means from 0 to 1 or to 255, and deviations that are not 0.
    """
    if explicit is not None:
        normalisation = from_unit(*explicit)
        return normalisation, f"normalised with {_text(normalisation)}"
    rejected = ""
    for name, mean, std in _pairs(content):
        normalisation = _plausible(mean, std)
        if normalisation is not None:
            text = f"normalised with its own {printable(name, 80)}: {_text(normalisation)}"
            return normalisation, f"{text} ({FLAGS} set another)"
        rejected = f"its {printable(name, 80)} {mean}, with {std}, is not that of pixels; "
    assumed = f"it does not tell its normalisation; assumed is that of the images here, {_text(images)}"
    return images, f"{rejected}{assumed} ({FLAGS} set it)"


def _text(normalisation: Normalisation) -> str:
    unit = to_unit(normalisation)
    return " and ".join(f"{name} {','.join(f'{value:.4g}' for value in unit[name])}" for name in ("mean", "std"))


def _pairs(content: dict[Any, Any], within: str = "") -> Iterator[tuple[str, list[float], list[float]]]:
    """What stands side by side in a dict, three numbers each, under names that differ in mean and std alone."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{within}{name}.")
        elif isinstance(name, str) and name.endswith("mean"):
            mean, std = _three(value), _three(content.get(f"{name[:-4]}std"))
            if mean and std:
                yield f"{within}{name}", mean, std


def _three(value: Any) -> list[float] | None:
    if isinstance(value, Tensor) and value.numel() == 3:
        value = value.flatten().tolist()
    numbers = isinstance(value, (list, tuple)) and all(isinstance(each, (int, float)) for each in value)
    return list(value) if numbers and len(value) == 3 and all(map(math.isfinite, value)) else None


def _plausible(mean: list[float], std: list[float]) -> Normalisation | None:
    if min(mean) < 0 or min(std) <= 0:
        return None
    if max(*mean, *std) <= 1:
        return from_unit(mean, std)
    return {"mean": mean, "std": std} if max(*mean, *std) <= 255 and min(std) >= 1 else None
