"""95% intervals of measured numbers, and the smallest difference that they could have shown.

The problem is the unit: samples of one problem are not independent. Every function takes one value
a problem, and `step`, the smallest change that one sample's verdict makes to it: k / n for pass@k
of n samples. It keeps intervals from having no width where all problems agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 4000
_MANY = 10**6  # degrees of freedom of what is as good as normal


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference, its interval, and the smallest one that would have been seen.

    Attributes:
        detectable: a true difference of this size gets an interval without zero in 80% of runs.
    """

    detectable: float


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Student's quantile; `freedom` below 1 counts as 1."""
    return float(stdtrit(max(freedom, 1), probability))


def share_interval(values: Floats, step: float) -> Interval:
    """Wilson's interval of a mean over problems, for values in 0..1.

    Wilson's formula takes the number of independent trials; here that is the number that has the
    standard error which the problems show, p (1 - p) / SE^2 (Dean and Pagano 2015). Where each
    problem is right or wrong, each is one trial.

    Args:
        values: [problems], at least one.
        step: see the module.
    """
    count, mean = len(values), float(values.mean())
    trials, spread, freedom = float(count), mean * (1.0 - mean), _MANY
    if count > 1 and not np.isin(values, (0.0, 1.0)).all():
        # No surer than if every sample were a trial of its own.
        variance = max(float(values.var(ddof=1)) / count, spread * step / count)
        trials, freedom = spread / variance, count - 1
    z2 = t_quantile((1.0 + LEVEL) / 2, freedom) ** 2
    middle = (mean + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (spread / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # At 0 and 1 the formula ends at the mean, but for rounding.
    return Interval(mean, max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half)))


def bayes_at_n(correct: Sequence[int], samples: Sequence[int]) -> Interval:
    """Bayes@N (arXiv 2510.04265): the mean accuracy on exactly these problems.

    Each problem's accuracy has a uniform prior; the mean over problems has the posterior's mean and
    variance, and the quantiles of the beta distribution which has both.

    Args:
        correct: right samples of each problem.
        samples: number of samples of each.
    """
    right, total = np.asarray(correct) + 1.0, np.asarray(samples) + 2.0
    share = right / total
    mean = float(share.mean())
    variance = float((share * (1.0 - share) / (total + 1.0)).sum()) / len(share) ** 2
    size = mean * (1.0 - mean) / variance - 1.0
    tail = (1.0 - LEVEL) / 2
    low, high = betaincinv(mean * size, (1.0 - mean) * size, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high))


def ratio_bounds(parts: Floats, wholes: Floats) -> tuple[Floats, Floats, Floats]:
    """Ratios of sums over problems, such as tokens by samples, and the ends of their intervals.

    Args:
        parts: [problems, ...], none below zero.
        wholes: [problems], with a sum above zero.

    Returns:
        Ratio, low and high end, [...] each. A single problem does not say how far problems scatter,
        nor do such as all have the same ratio: then the ends are NaN.
    """
    count = len(parts)
    ratio = np.asarray(parts.sum(axis=0) / wholes.sum())
    if count < 2:
        unknown = np.full_like(ratio, math.nan)
        return ratio, unknown, unknown
    rest = parts - ratio * wholes.reshape(-1, *[1] * ratio.ndim)
    error = rest.std(axis=0, ddof=1) / math.sqrt(count) / wholes.mean()
    # Equal ratios differ by the rounding of the division.
    error = np.where(error > 1e-9 * ratio, error, math.nan)
    half = t_quantile((1.0 + LEVEL) / 2, count - 1) * error
    return ratio, np.maximum(0.0, ratio - half), ratio + half


def mean_of(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates: their arms add up squared, each side by itself (MOVER)."""
    count = len(parts)
    mean = sum(part.mean for part in parts) / count
    below = math.sqrt(sum((part.mean - part.low) ** 2 for part in parts)) / count
    above = math.sqrt(sum((part.high - part.mean) ** 2 for part in parts)) / count
    return Interval(mean, mean - below, mean + above)


def bootstrap(
    tasks: Sequence[Floats],
    steps: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Percentile bootstrap of means over problems, of differences or slopes.

    Problems are redrawn within each task, and the mean is that of the tasks' means, so that a
    large task does not outvote a small one. All columns see the same draws. Two problems are added
    to each task, one above zero and one below (after Agresti and Min 2005), and percentiles are
    widened as Student's t is wider than the normal (Hesterberg 2015).

    Args:
        tasks: for each task [problems, columns], one value a problem.
        steps: of each column, see the module.
        seed: of the draws; the same seed gives the same interval.
        resamples: number of bootstrap means.

    Returns:
        One a column.
    """
    generator = np.random.default_rng(seed)
    # Squared, the two of them weigh as much as one step.
    step = np.asarray(steps, dtype=float) / math.sqrt(2)
    drawn = np.zeros((resamples, len(step)))
    centre, reach = np.zeros_like(step), np.zeros_like(step)
    tail = (1.0 + LEVEL) / 2
    normal = t_quantile(tail, _MANY)
    for task in tasks:
        count, rows = len(task), np.vstack([task, step, -step])
        student = t_quantile(tail, count - 1)
        middle, drawn_of = rows.mean(axis=0), len(rows)
        unbiased = math.sqrt(drawn_of / (drawn_of - 1))
        chances = np.full(drawn_of, 1 / drawn_of)
        counts = generator.multinomial(drawn_of, chances, size=resamples)
        drawn += student / normal * unbiased * (counts @ rows / drawn_of - middle)
        centre += middle
        error = unbiased * rows.std(axis=0) / math.sqrt(drawn_of)
        # The two added problems shrink a true difference, too.
        reach += ((student + t_quantile(POWER, count - 1)) * error * drawn_of / count) ** 2
    count = len(tasks)
    low, high = (centre + np.quantile(drawn, [1.0 - tail, tail], axis=0)) / count
    means = np.mean([task.mean(axis=0) for task in tasks], axis=0)
    columns = zip(means, low, high, np.sqrt(reach) / count, strict=True)
    return [Difference(*map(float, column)) for column in columns]
