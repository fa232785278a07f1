"""Whether a gain over several seeds is more than chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from utils.runtime.errors import UserError

CONFIDENCE = 0.95


class Gain(NamedTuple):
    """Differences between two kinds of runs, paired by seed, in percentage points."""

    n: int  # pairs
    mean: float
    sd: float | None  # standard deviation over seeds (n - 1); None for a single one
    low: float | None  # the 95 % confidence interval of the mean; None for a single seed
    high: float | None


def t_quantile(p: float, dof: int) -> float:
    """The value that Student's t with `dof` degrees of freedom stays below with probability `p`.

    Bisection in the angle theta = atan(t / sqrt(dof)) of the finite sums for whole `dof` in Abramowitz and Stegun,
    *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4. Raises UserError for `p` outside (0, 1) and for `dof`
    below 1.
    """
    if not 0 < p < 1 or dof < 1:
        hint = "p lies between 0 and 1, and dof is at least 1"
        raise UserError(f"Student's t has no quantile {p} with {dof} degrees of freedom", hint)
    low, high = -math.pi / 2, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _within(middle, dof) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def _within(theta: float, dof: int) -> float:
    """The probability that |t| < sqrt(dof) * tan(theta), with the sign of theta."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = dof % 2
    term, total = (cosine if odd else 1.0), 0.0
    for factor in range(2 + odd, dof + 1, 2):
        total += term
        term *= cosine**2 * (factor - 1) / factor
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> Gain:
    """Mean and spread of `values` minus `baseline`, which hold the same seeds in the same order.

    The interval is mean ± t * sd / sqrt(n) with the quantile of Student's t for n - 1 degrees of freedom: what two
    runs of one seed share does not widen it. Raises UserError without values or with another number of baselines.
    """
    if len(values) != len(baseline) or not values:
        what = f"{len(values)} results cannot be paired with {len(baseline)}"
        raise UserError(what, "compare runs of the same seeds")
    # Rounded as the accuracies are that come in: equal differences must not differ by the noise of subtraction.
    differences = [round(value - other, 4) for value, other in zip(values, baseline, strict=True)]
    n = len(differences)
    mean = math.fsum(differences) / n
    if n == 1:
        return Gain(n, mean, None, None, None)
    sd = math.sqrt(math.fsum((difference - mean) ** 2 for difference in differences) / (n - 1))
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * sd / math.sqrt(n)
    return Gain(n, mean, sd, mean - half, mean + half)


def summarise_gain(name: str, gain: Gain) -> str:
    """One line on whether the runs called `name` gain or lose: they do where the interval leaves out zero.

    ± is the standard deviation over seeds, not the error of the mean; the interval is that of the mean. Numbers
    have one decimal, or two where one of them would vanish.
    """
    numbers = [number for number in gain[1:] if number is not None]
    digits = 2 if any(0 < abs(number) < 0.1 for number in numbers) else 1

    def text(number: float, sign: str = "") -> str:
        return f"{round(number, digits) + 0.0:{sign}.{digits}f}"  # + 0.0 takes the sign off a zero

    if gain.n == 1:
        points = f"{text(gain.mean, '+')} points in one seed"
        return f"{name}: {points}, which cannot tell gain from chance; --seeds 3 can"
    seeds = f"{gain.n} seeds, {CONFIDENCE:.0%} interval".replace("%", " %")
    if gain.sd == 0 and gain.mean:
        kind = "gains" if gain.mean > 0 else "loses"
        return f"{name} {kind} {text(abs(gain.mean))} points, the same in all {gain.n} seeds"
    if gain.low > 0:
        spread = f"{text(gain.mean)} ± {text(gain.sd)} points"
        return f"{name} gains {spread} ({seeds} {text(gain.low)} to {text(gain.high)})"
    if gain.high < 0:
        spread = f"{text(-gain.mean)} ± {text(gain.sd)} points"
        return f"{name} loses {spread} ({seeds} {text(-gain.high)} to {text(-gain.low)})"
    spread = f"{text(gain.mean, '+')} ± {text(gain.sd)} points"
    return f"{name}: no measurable gain ({spread}, {seeds} {text(gain.low)} to {text(gain.high)})"
