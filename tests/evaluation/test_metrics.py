"""Statistics against brute force and hand computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from led_sglang.evaluation.report.metrics import (
    fit_plane,
    majority_at_k,
    pass_at_k,
    slope_step,
    slopes,
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


def test_slopes_of_problems_average_to_the_planes_alpha() -> None:
    tables = np.random.default_rng(8).uniform(0, 100, size=(7, 3, 5))
    assert slopes(tables).mean() == pytest.approx(fit_plane(tables.mean(axis=0)).alpha)


def test_a_slope_step_is_what_one_sample_moves_through_every_pass_at_k() -> None:
    """A sample that is right where all others of its problem are wrong."""
    ks, n = [1, 2, 4], 4
    moved = []
    for temperature in range(3):
        tables = np.zeros((len(ks), 3, len(ks)))  # through one k a table
        tables[range(3), temperature, range(3)] = [pass_at_k(n, 1, k) for k in ks]
        moved.append(math.hypot(*slopes(tables)))
    assert slope_step(3, ks, n) == pytest.approx(max(moved))
