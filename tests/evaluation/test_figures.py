"""The report's figures: one text size, panels by temperature where lines are many, bands, bars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import results_of
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from led_sglang.evaluation.report import accuracy_figures, curve_figures, token_figures
from led_sglang.evaluation.report.plots import draw_all
from led_sglang.evaluation.report.summary import summarize

SAMPLERS, TEMPERATURES, TASKS = ("regular", "led-a", "led-b"), (0.1, 0.6, 1.0), ("aime24", "gsm8k")
N = 4
# A panel with these has four lines; with all of them nine.
FEW: dict[str, Any] = {"samplers": SAMPLERS[:2], "temperatures": TEMPERATURES[:2]}
MANY: dict[str, Any] = {"samplers": SAMPLERS, "temperatures": TEMPERATURES}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def metrics_of(tokens: Callable[[int], int] = lambda item: 100 + 30 * item, **grid: Any) -> Any:
    drawn = np.random.default_rng(0).random((8, N)) < np.linspace(0.1, 0.9, 8)[:, None]
    verdicts = [[bool(v) for v in row] for row in drawn]
    return summarize(results_of(verdicts, tasks=TASKS, tokens=tokens, **grid))


def cells_of(metrics: Any) -> list[Any]:
    """Of every task, in the order of the samplers, then of temperatures."""
    return [
        cell
        for by_sampler in metrics["tasks"].values()
        for by_temperature in by_sampler.values()
        for cell in by_temperature.values()
    ]


@pytest.mark.parametrize("grid", [FEW, MANY], ids=["few", "many"])
def test_texts_have_one_size_and_figures_the_width_of_the_page(
    tmp_path: Path, grid: dict[str, Any]
) -> None:
    drawn = draw_all(metrics_of(**grid), tmp_path)
    assert list(drawn) == ["pass_at_n", "cover", "paired", "alpha", "length", "exploration"]
    for svg in drawn.values():
        sizes = re.findall(r"font(?:-size)?: (?:\w+ )?([\d.]+)px", svg)
        assert len(sizes) == svg.count("<text") > 10
        assert set(sizes) == {"9"}
        assert "max-width: 756pt" in svg  # 10.5 inches
        assert "nan" not in svg.lower()


@pytest.mark.parametrize(
    "draw",
    [curve_figures.pass_at_n, curve_figures.cover_at_tau, token_figures.exploration,
     accuracy_figures.paired],
)  # fmt: skip
def test_more_than_four_lines_get_a_panel_for_each_temperature(
    draw: Callable[[Mapping[str, Any]], Any],
) -> None:
    for grid, faceted in ((FEW, False), (MANY, True)):
        figure = draw(metrics_of(**grid))
        titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
        for temperature in grid["temperatures"]:
            assert any(f"T = {temperature:g}" in title for title in titles) == faceted
        lines = [len(axis.lines) for axis in figure.axes]
        if draw in (curve_figures.pass_at_n, curve_figures.cover_at_tau):
            assert set(lines) == ({3} if faceted else {4})


@pytest.mark.parametrize("grid", [FEW, MANY], ids=["few", "many"])
def test_every_curve_has_the_band_of_its_intervals(grid: dict[str, Any]) -> None:
    metrics = metrics_of(**grid)
    curves = [{int(k): c[f"pass@{k}"] for k in (1, 2, 4)} for c in cells_of(metrics)]
    covers = [{float(t): e for t, e in c["cover@tau"].items()} for c in cells_of(metrics)]
    for draw, expected in (
        (curve_figures.pass_at_n, curves),
        (curve_figures.cover_at_tau, covers),
    ):
        figure = draw(metrics)
        assert figure is not None
        drawn = [found for axis in figure.axes for found in bands(axis)]
        for entries in expected:
            ends = {(x, end) for x, e in entries.items() for end in e["interval"]}
            assert ends in drawn
        for axis in figure.axes:
            assert len(bands(axis)) == len(axis.lines)


def bands(axis: Axes) -> list[set[tuple[float, float]]]:
    """Corners of every band."""
    return [
        {(float(x), float(y)) for x, y in path.vertices}
        for area in axis.collections
        if isinstance(area, PolyCollection)
        for path in area.get_paths()
    ]


def test_every_bar_and_point_has_its_interval() -> None:
    metrics = metrics_of(**FEW)
    firsts = [cell[f"pass@1[avg-of-{N}]"]["avg_tokens_interval"] for cell in cells_of(metrics)]
    assert ends_of(token_figures.length(metrics)) == sorted(map(tuple, firsts))
    explored = [
        cell["led"]["explored_interval"]
        for by_temperature in metrics["average"].values()
        for cell in by_temperature.values()
        if cell["led"]
    ]
    assert ends_of(token_figures.exploration(metrics)) == sorted(
        (100 * low, 100 * high) for low, high in explored
    )
    alpha = [
        tuple(cell[f"pass@{k}"]["interval"])
        for by_temperature in metrics["average"].values()
        for cell in by_temperature.values()
        for k in (1, 2, 4)
    ]
    assert ends_of(accuracy_figures.alpha(metrics)) == sorted(alpha)
    differences = sorted((entry["low"], entry["high"]) for entry in metrics["paired"])
    paired = accuracy_figures.paired(metrics)
    assert paired is not None
    drawn = {tuple(line.get_xdata()) for axis in paired.axes for line in axis.lines}
    assert drawn >= set(differences)
    assert max(end for ends in drawn for end in ends if ends[0] == -ends[-1]) <= 100


def ends_of(figure: Any) -> list[tuple[float, float]]:
    """Of every upright line of two points."""
    lines = [line for axis in figure.axes for line in axis.lines]
    upright = [line for line in lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())]
    return sorted(tuple(map(float, line.get_ydata())) for line in upright)


def test_where_problems_are_all_alike_no_bar_claims_to_know(tmp_path: Path) -> None:
    metrics = metrics_of(lambda item: 100, **FEW)
    assert ends_of(token_figures.length(metrics)) == []
    assert ends_of(token_figures.exploration(metrics)) == []
    assert len(draw_all(metrics, tmp_path)) == 6
