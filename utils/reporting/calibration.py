"""The bins of a reliability diagram, each with what so few images can tell of its accuracy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FEW = 20  # images; the accuracy of fewer is known to 20 points at best, and is drawn hollow
Z = 1.959963984540054  # of a normal distribution, 95 % are within so many standard deviations


class Bin(NamedTuple):
    """Predictions of like confidence; all but the count are percent."""

    start: float
    end: float
    count: int
    confidence: float  # mean
    accuracy: float
    low: float  # the 95 % confidence interval of the accuracy
    high: float

    @property
    def few(self) -> bool:
        return self.count < FEW


def read_bins(calibrations: Sequence[Mapping[str, Sequence[Any]]]) -> list[Bin]:
    """The bins that have images, those of several seeds together; `calibration` of their analysis.json.

    Lists that are shorter than the others are read as far as all of them go.
    """
    columns = ("count", "confidence", "accuracy")
    seeds = [list(zip(*(each[column] for column in columns), strict=False)) for each in calibrations]
    bins = list(zip(*seeds, strict=False))
    filled = []
    for number, parts in enumerate(bins):
        known = [part for part in parts if part[0] > 0 and None not in part]
        count = sum(part[0] for part in known)
        if count:
            confidence, accuracy = (sum(part[0] * part[column] for part in known) / count for column in (1, 2))
            edges = 100 * number / len(bins), 100 * (number + 1) / len(bins)
            filled.append(Bin(*edges, count, confidence, accuracy, *wilson(accuracy, count)))
    return filled


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval, in percent, of a share (percent) that was seen among `count`.

    Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927: unlike mean ± 1.96
    standard errors it is no point for a share of 0 or 100 %.
    """
    share, square = share / 100, Z**2 / count
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(max(0.0, share * (1 - share)) * square + square**2 / 4) / (1 + square)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
