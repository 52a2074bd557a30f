"""Statistics on verdicts: pass@k, majority@k, errors of means, the plane behind alpha.

Plain functions on arrays; `summary.py` applies them to a run, `intervals.py` has the intervals.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from led_sglang.common.intervals import Floats

# k of the paper's curves.
KS = (1, 2, 4, 8, 16)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that a random subset of k of the samples holds a correct one (Chen et al. 2021).

    It is 1 - C(samples - correct, k) / C(samples, k), for k in 1 .. samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct of {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_at_k(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Is the most frequent answer of the first k samples right?

    Samples without an answer do not vote; a tie counts the share of its answers that are right.

    Args:
        votes: normal form of each sample's answer, in sample order.
        correct: verdict of each.
    """
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for vote, verdict in zip(votes[:k], correct[:k], strict=True):
        if vote is not None:
            verdicts[vote].append(verdict)
    if not verdicts:
        return 0.0
    most = max(map(len, verdicts.values()))
    winners = [np.mean(group) for group in verdicts.values() if len(group) == most]
    return float(np.mean(winners))


def standard_error(per_item: Floats) -> float:
    """Standard error of the mean over problems; NaN for a single one.

    Samples of one problem are not independent, so the problem is the unit.
    """
    if per_item.size < 2:
        return math.nan
    return float(per_item.std(ddof=1) / math.sqrt(per_item.size))


@dataclass(frozen=True)
class Plane:
    """accuracy = intercept + alpha * (temperature index) + beta * (n index)."""

    alpha: float
    beta: float
    intercept: float

    def at(self, temperature_index: float, n_index: float) -> float:
        return self.intercept + self.alpha * temperature_index + self.beta * n_index


def fit_plane(accuracy: Floats) -> Plane:
    """Least-squares plane; its slope along temperature is the paper's alpha.

    Args:
        accuracy: [temperatures, ks], in percent, both axes in rising order.

    Raises:
        ValueError: fewer than two temperatures or two ks leave a slope undefined.
    """
    intercept, alpha, beta = _solver(*accuracy.shape) @ accuracy.ravel()
    return Plane(alpha=float(alpha), beta=float(beta), intercept=float(intercept))


def slopes(tables: Floats) -> Floats:
    """alpha of each problem, whose mean is that of the mean table: the plane is linear in it.

    Args:
        tables: [problems, temperatures, ks], as in `fit_plane`.

    Returns:
        [problems].
    """
    weights = _solver(*tables.shape[1:])[1]
    return np.asarray(tables.reshape(len(tables), -1) @ weights)


def slope_step(temperatures: int, ks: Sequence[int], samples: int) -> float:
    """The step of a problem's alpha (see `slopes`) for its interval (see `intervals`).

    One sample's verdict moves alpha through each pass@k, at most by k / n times a weight. Only the
    first right sample of a problem moves it so far through all of them, and their plain sum makes
    intervals too wide: of 30 problems 98 to 99 of 100 would cover. So they add up squared.
    """
    weights = np.abs(_solver(temperatures, len(ks))[1]).reshape(temperatures, len(ks))
    return float(np.linalg.norm(weights * np.array(ks) / samples, axis=1).max())


def _solver(temperatures: int, ks: int) -> Floats:
    """[3, temperatures * ks]: from accuracies to intercept, alpha and beta."""
    if temperatures < 2 or ks < 2:
        raise ValueError("a plane needs at least two temperatures and two values of n")
    t, n = np.meshgrid(np.arange(temperatures), np.arange(ks), indexing="ij")
    design = np.stack([np.ones(t.size), t.ravel(), n.ravel()], axis=1)
    return np.asarray(np.linalg.pinv(design))
