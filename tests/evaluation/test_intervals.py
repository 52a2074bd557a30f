"""Intervals: coverage and power on synthetic runs, never of width zero, against other code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest
from scorio.eval import bayes

from led_sglang.common.intervals import (
    Floats,
    Interval,
    bayes_at_n,
    bootstrap,
    mean_of,
    ratio_bounds,
    share_interval,
)
from led_sglang.evaluation.report.comparisons import verdict
from led_sglang.evaluation.report.metrics import KS, pass_at_k, slope_step, slopes

# Synthetic runs of each case. Nominal 95%: 93 to 97 of 100 must cover the truth.
RUNS = 1000
NOMINAL = pytest.approx(0.95, abs=0.02)


def pass_at(correct: np.ndarray, samples: int, k: int) -> Floats:
    """pass@k of each entry."""
    table = np.array([pass_at_k(samples, c, k) for c in range(samples + 1)])
    return np.asarray(table[correct])


# AIME's 60 problems and MATH-500's 500 (of 30 single verdicts Wilson's interval is wrong by its
# lattice alone: 97.6 of 100 cover); a model that knows two thirds, and one that knows half of
# the problems well and the others hardly; single verdicts, means of 16, any of 16.
@pytest.mark.parametrize("problems", [60, 500])
@pytest.mark.parametrize("easiness", [(2.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize(("samples", "k"), [(1, 1), (16, 1), (16, 4)])
def test_intervals_of_shares_cover_the_truth(
    problems: int, easiness: tuple[float, float], samples: int, k: int
) -> None:
    generator = np.random.default_rng(1)
    truth = float(np.mean(1 - (1 - generator.beta(*easiness, size=10**6)) ** k))
    right = generator.binomial(samples, generator.beta(*easiness, size=(RUNS, problems)))
    found = [share_interval(row, k / samples) for row in pass_at(right, samples, k)]
    assert np.mean([i.low <= truth <= i.high for i in found]) == NOMINAL


@pytest.mark.parametrize(("problems", "least", "most"), [(30, 0.92, 0.981), (60, 0.93, 0.979)])
def test_yes_or_no_of_few_problems_is_covered_as_the_page_says(
    problems: int, least: float, most: float
) -> None:
    """Cover@tau, whose shares move in steps of a problem: exactly, by the true share."""
    counts = np.arange(problems + 1)
    found = [share_interval((np.arange(problems) < c).astype(float), 1.0) for c in counts]
    low, high = (np.array([getattr(i, end) for i in found]) for end in ("low", "high"))
    shares = np.linspace(0, 1, 2001)[:, None]
    covered = (binom.pmf(counts, problems, shares) * (low <= shares) * (shares <= high)).sum(axis=1)
    assert covered.min() > 0.84
    inner = covered[100:-100]  # 5 to 95%
    assert least < inner.min() < inner.max() < most
    assert inner.mean() == pytest.approx(0.952, abs=0.002)


@pytest.mark.parametrize("problems", [60, 200])
def test_intervals_of_ratios_cover_the_truth(problems: int) -> None:
    """Tokens by samples, and explored by think tokens: the longer a thought, the surer it is."""
    generator = np.random.default_rng(8)

    def run(count: int) -> tuple[Floats, Floats]:
        thought = generator.lognormal(7, 0.5, size=count).round()
        rate = 0.2 / np.sqrt(thought / 1000) * generator.uniform(0.5, 1.5, size=count)
        explored = generator.binomial(thought.astype(int), rate.clip(0, 1))
        return np.stack([thought, explored], axis=1), np.stack([np.ones(count), thought], axis=1)

    everything = [total.sum(axis=0) for total in run(3 * 10**5)]
    truth = everything[0] / everything[1]
    covered = []
    for _ in range(RUNS):
        parts, wholes = run(problems)
        for column in (0, 1):
            ratio, low, high = ratio_bounds(parts[:, column], wholes[:, column])
            assert low < ratio < high
            covered.append(low <= truth[column] <= high)
    assert np.mean(covered[0::2]) == NOMINAL
    assert np.mean(covered[1::2]) == NOMINAL


def test_a_ratio_whose_problems_do_not_scatter_has_no_interval() -> None:
    wholes = np.array([3.0, 7.0, 9.0])
    parts = np.stack([wholes * 0.3, wholes * 0.0, wholes * [0.2, 0.3, 0.3]], axis=1)
    ratio, low, high = ratio_bounds(parts, wholes)
    assert ratio[:2] == pytest.approx([0.3, 0.0])
    assert np.isnan([low[:2], high[:2]]).all()
    assert low[2] < ratio[2] < high[2]
    ratio, low, high = ratio_bounds(parts[:1], wholes[:1])
    assert ratio == pytest.approx(parts[0] / wholes[0])
    assert np.isnan([low, high]).all()


def test_wilsons_interval_is_scipys_where_each_problem_has_one_sample() -> None:
    """From 2000 problems on Student's t is the normal."""
    values = np.arange(2000) < 1700
    theirs = binomtest(1700, 2000).proportion_ci(method="wilson")
    ours = share_interval(values.astype(float), 1.0)
    assert (ours.low, ours.high) == (
        pytest.approx(theirs.low, abs=1e-4),
        pytest.approx(theirs.high, abs=1e-4),
    )


@pytest.mark.parametrize("problems", [1, 10, 100])
@pytest.mark.parametrize("samples", [1, 16])
def test_bayes_at_n_covers_the_truth_of_its_own_problems(problems: int, samples: int) -> None:
    generator = np.random.default_rng(2)
    truth = generator.uniform(size=(RUNS, problems))
    right = generator.binomial(samples, truth)
    found = [bayes_at_n(row, [samples] * problems) for row in right]
    covered = [i.low <= t <= i.high for i, t in zip(found, truth.mean(axis=1), strict=True)]
    assert np.mean(covered) == NOMINAL


def test_bayes_at_n_equals_draws_from_the_posterior_and_scorio() -> None:
    generator = np.random.default_rng(3)
    right, samples = np.array([0, 3, 7, 8, 8]), 8
    ours = bayes_at_n(right, [samples] * 5)
    drawn = beta.rvs(right + 1, samples - right + 1, size=(10**6, 5), random_state=generator).mean(
        axis=1
    )
    assert ours.mean == pytest.approx(drawn.mean(), abs=1e-3)
    assert (ours.low, ours.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=2e-3)
    verdicts = (np.arange(samples) < right[:, None]).astype(int)
    mean, deviation = bayes(verdicts)
    assert ours.mean == pytest.approx(mean)
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * deviation, rel=0.02)


def differences(generator: np.random.Generator, problems: int, samples: int, gain: float) -> Floats:
    """[problems, RUNS]: the second sampler minus the first one, a run a column."""
    easiness = generator.uniform(0.05, 0.6, size=(problems, RUNS))
    before = generator.binomial(samples, easiness)
    after = generator.binomial(samples, easiness + gain)
    return np.asarray((after - before) / samples)


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [1, 8, 16])
@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_intervals_of_differences_cover_the_truth(problems: int, samples: int, gain: float) -> None:
    drawn = differences(np.random.default_rng(4), problems, samples, gain)
    found = bootstrap([drawn], [1 / samples] * RUNS, resamples=1000)
    assert np.mean([i.low <= gain <= i.high for i in found]) == NOMINAL


@pytest.mark.parametrize("problems", [60, 200])
@pytest.mark.parametrize(("easiness", "loss"), [((2.0, 1.0), 0.0), ((0.5, 0.5), 0.1)])
def test_intervals_of_alpha_cover_the_truth(
    problems: int, easiness: tuple[float, float], loss: float
) -> None:
    """Three temperatures, each of which takes `loss` of the chance to be right, and 16 samples."""
    generator, samples = np.random.default_rng(9), 16
    kept = (1 - loss) ** np.arange(3)

    def chances(count: int) -> Floats:
        return generator.beta(*easiness, size=(count, 1)) * kept

    wrong = 1 - chances(10**5)
    truth = slopes(np.stack([1 - wrong**k for k in KS], axis=2)).mean()
    right = generator.binomial(samples, chances(problems * RUNS))
    tables = np.stack([pass_at(right, samples, k) for k in KS], axis=2)
    found = bootstrap(
        [slopes(tables).reshape(problems, RUNS)], [slope_step(3, KS, samples)] * RUNS,
        resamples=1000,
    )  # fmt: skip
    assert np.mean([i.low <= truth <= i.high for i in found]) == NOMINAL


@pytest.mark.parametrize("problems", [(30, 30), (30, 300)])
def test_intervals_of_means_over_tasks_cover_the_truth(problems: tuple[int, int]) -> None:
    generator = np.random.default_rng(5)
    drawn = [differences(generator, count, 8, 0.05) for count in problems]
    found = bootstrap(drawn, [1 / 8] * RUNS, resamples=1000)
    assert np.mean([i.low <= 0.05 <= i.high for i in found]) == NOMINAL
    right = [generator.binomial(8, generator.beta(2, 1, size=(RUNS, n))) / 8 for n in problems]
    means = [
        mean_of([share_interval(row, 1 / 8) for row in rows]) for rows in zip(*right, strict=True)
    ]
    assert np.mean([i.low <= 2 / 3 <= i.high for i in means]) == NOMINAL


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [1, 16])
def test_a_difference_of_the_detectable_size_is_seen_in_four_runs_of_five(
    problems: int, samples: int
) -> None:
    generator = np.random.default_rng(6)
    steps = [1 / samples] * RUNS
    nothing = bootstrap([differences(generator, problems, samples, 0.0)], steps, resamples=200)
    detectable = float(np.mean([i.detectable for i in nothing]))
    drawn = differences(generator, problems, samples, detectable)
    seen = [i.low > 0 for i in bootstrap([drawn], steps, resamples=1000)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("problems", [1, 2, 30])
def test_no_interval_has_no_width(value: float, problems: int) -> None:
    values = np.full(problems, value)
    found: list[Interval] = [
        share_interval(values, 1 / 4),
        bayes_at_n([round(4 * value)] * problems, [4] * problems),
        *bootstrap([values[:, None]], [1 / 4]),
    ]
    found.append(mean_of(found[:1] * 3))
    for interval in found:
        assert interval.high - interval.low > 0.01 / math.sqrt(problems)
    for interval in (*found[:2], found[3]):
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_one_problem_tells_no_difference() -> None:
    (found,) = bootstrap([np.array([[1.0]])], [1 / 16])
    assert found.low < 0 < found.high


def test_pairing_narrows_the_interval() -> None:
    """The difference is far surer than either mean: what the pairing is for."""
    generator = np.random.default_rng(6)
    difficulty = generator.uniform(0, 1, size=200)
    before = difficulty + generator.normal(0, 0.02, 200)
    after = difficulty + 0.03 + generator.normal(0, 0.02, 200)
    paired, alone = bootstrap([np.stack([after - before, after], axis=1)], [0.01, 0.01])
    assert paired.low > 0
    assert alone.high - alone.low > 5 * (paired.high - paired.low)


def test_average_weighs_tasks_alike() -> None:
    small, large = np.full((3, 1), 0.4), np.zeros((300, 1))
    (found,) = bootstrap([small, large], [0.01])
    assert found.mean == pytest.approx(0.2)
    assert found.low < 0.2 < found.high


def test_bootstrap_matches_the_normal_theory() -> None:
    values = np.random.default_rng(7).normal(0.1, 1.0, size=(400, 1))
    (found,) = bootstrap([values], [0.01], resamples=20_000)
    error = float(values.std(ddof=1)) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert found.detectable == pytest.approx((1.96 + 0.842) * error, rel=0.02)


@pytest.mark.parametrize(
    ("difference", "low", "high", "detectable", "words"),
    [
        (1.2, 0.2, 2, 1.1, "higher"),
        (-1.2, -2, -0.2, 1.1, "lower"),
        (1.1, 0.1, 2, 1.4, "cannot tell"),  # less than the run could reliably have seen
        (1.5, 0, 2, 1.1, "cannot tell"),
        (-0.4, -1.2, 0.3, 1.1, "cannot tell"),
        (0.2, -0.31, 0.72, 0.8, "no difference larger than 0.8"),
        (0, -1, 1, 1.4, "no difference larger than 1.0"),
        (0.5, 0.1, 0.9, 0.6, "no difference larger than 0.9"),
    ],
)
def test_a_difference_is_read_as_it_is(
    difference: float, low: float, high: float, detectable: float, words: str
) -> None:
    assert verdict(difference, low, high, detectable) == words
