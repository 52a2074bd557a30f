"""Statistics against brute force, hand computation and synthetic data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from led_sglang.evaluation.report.metrics import (
    fit_plane,
    majority_at_k,
    paired_bootstrap,
    pass_at_k,
    standard_error,
)


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: int) -> None:
    for correct in range(samples + 1):
        verdicts = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            subsets = list(itertools.combinations(verdicts, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0)])
def test_pass_at_k_refuses_the_impossible(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, correct, k)


@pytest.mark.parametrize(
    ("votes", "correct", "k", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 3, 1.0),
        (["8", "7", "8"], [False, True, False], 3, 0.0),
        (["8", "7", "8"], [False, True, False], 2, 0.5),  # a tie
        ([None, None, "7"], [False, False, True], 3, 1.0),  # no answer, no vote
        ([None, None, "7"], [False, False, True], 2, 0.0),
        (["1", "2", "3", "3"], [True, False, False, False], 4, 0.0),
    ],
)
def test_majority(votes: list[str | None], correct: list[bool], k: int, expected: float) -> None:
    assert majority_at_k(votes, correct, k) == expected


def test_standard_error_by_hand() -> None:
    # Mean 0.5, squared deviations 4 * 0.25, divided by 3; sqrt(1/3)/2.
    assert standard_error(np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert math.isnan(standard_error(np.array([1.0])))


def test_plane_by_hand() -> None:
    # Temperatures 3, ks 2. Column means 12 and 22, row means 16, 17, 18; alpha is the slope of the
    # row means (1 a step), beta that of the column means (10), and the plane meets the mean, 17,
    # at the middle: 17 - 1 * 1 - 10 * 0.5 = 11.
    plane = fit_plane(np.array([[10.0, 22.0], [13.0, 21.0], [13.0, 23.0]]))
    assert (plane.alpha, plane.beta) == (pytest.approx(1.0), pytest.approx(10.0))
    assert plane.intercept == pytest.approx(11.0)
    assert plane.at(2, 1) == pytest.approx(23.0)


def test_plane_finds_exact_slopes() -> None:
    t, n = np.meshgrid(np.arange(3), np.arange(5), indexing="ij")
    plane = fit_plane(60.0 - 1.9 * t + 3.5 * n)
    assert (plane.alpha, plane.beta) == (pytest.approx(-1.9), pytest.approx(3.5))


@pytest.mark.parametrize("shape", [(1, 5), (3, 1)])
def test_plane_needs_two_of_each(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        fit_plane(np.zeros(shape))


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 synthetic experiments of 60 problems; 95% +- 3 standard errors of 200 draws."""
    generator = np.random.default_rng(5)
    covered = 0
    for experiment in range(200):
        # Problems differ in difficulty; the second sampler is 5 points better on each.
        difficulty = generator.uniform(0.1, 0.85, size=60)
        before = generator.binomial(16, difficulty) / 16
        after = generator.binomial(16, difficulty + 0.05) / 16
        (interval,) = paired_bootstrap([(after - before)[:, None]], seed=experiment, resamples=800)
        covered += interval.low <= 0.05 <= interval.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200) <= covered / 200


def test_pairing_narrows_the_interval() -> None:
    """The difference is far surer than either mean: what the pairing is for."""
    generator = np.random.default_rng(6)
    difficulty = generator.uniform(0, 1, size=200)
    before = difficulty + generator.normal(0, 0.02, 200)
    after = difficulty + 0.03 + generator.normal(0, 0.02, 200)
    (paired,) = paired_bootstrap([(after - before)[:, None]])
    (alone,) = paired_bootstrap([after[:, None]])
    assert paired.low > 0
    assert alone.high - alone.low > 5 * (paired.high - paired.low)


def test_average_weighs_tasks_alike() -> None:
    small, large = np.full((3, 1), 0.4), np.zeros((300, 1))
    (interval,) = paired_bootstrap([small, large])
    assert [interval.mean, interval.low, interval.high] == pytest.approx([0.2, 0.2, 0.2])


def test_bootstrap_matches_the_normal_theory() -> None:
    values = np.random.default_rng(7).normal(0.1, 1.0, size=(400, 1))
    (interval,) = paired_bootstrap([values], resamples=20_000)
    half = 1.96 * standard_error(values[:, 0])
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)
