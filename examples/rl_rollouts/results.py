"""Curves and a table of the arms, from the trainers' own logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from led_sglang.common.palette import COLOURS
from led_sglang.common.provenance import processor

Runs = Mapping[tuple[str, int], Path]
_CURVES = {
    "reward": "reward of the rollouts",
    "entropy": "entropy of the policy, nats",
    "ratio/mean": "mean of p/q",
    "ratio/max": "largest p/q of a step",
    "held_out": "held-out problems solved",
}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The trainer's log, an entry a step and a measurement."""
    state = json.loads((folder / "trainer_state.json").read_text())
    history: list[dict[str, Any]] = state["log_history"]
    return history


def curve(folder: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one key."""
    found = [(entry["step"], entry[key]) for entry in read_log(folder) if key in entry]
    return [step for step, _ in found], [value for _, value in found]


def write_results(out: Path, runs: Runs) -> None:
    """RESULTS.md and curves.png."""
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    figure, axes = plt.subplots(len(_CURVES), 1, figsize=(7, 3 * len(_CURVES)), sharex=True)
    for axis, (key, label) in zip(axes, _CURVES.items(), strict=True):
        for colour, arm in zip(COLOURS, arms, strict=False):
            curves = [curve(folder, key) for (name, _), folder in runs.items() if name == arm]
            values = np.array([values for _, values in curves])
            steps, mean = curves[0][0], values.mean(0)
            axis.plot(steps, mean, color=colour, label=arm)
            error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0 * mean
            axis.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)
    plt.close(figure)
    (out / "RESULTS.md").write_text(_page(arms, runs))


def _page(arms: list[str], runs: Runs) -> str:
    minutes = sum(sum(curve(folder, "step_time")[1]) for folder in runs.values()) / 60
    seeds = len({seed for _, seed in runs})
    lines = [
        "# GRPO with rollouts of a led-sglang server",
        "",
        f"`make rl-rollouts`, {date.today()}, {minutes:.0f} minutes of training steps, "
        f"{processor()}; mean and standard error over {seeds} seeds. Bands in the picture are "
        "standard errors.",
        "",
        "| arm | held out, before | held out, after | reward, last 5 steps | entropy, last 5 steps "
        "| mean of p/q | largest p/q | largest difference of log-probabilities |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        folders = [folder for (name, _), folder in runs.items() if name == arm]
        held_out = [curve(folder, "held_out")[1] for folder in folders]
        cells = [
            _shown([values[0] for values in held_out]),
            _shown([values[-1] for values in held_out]),
            *(
                _shown([float(np.mean(curve(folder, key)[1][-5:])) for folder in folders])
                for key in ("reward", "entropy")
            ),
            _shown([float(np.mean(curve(folder, "ratio/mean")[1])) for folder in folders], 4),
            _shown([max(curve(folder, "ratio/max")[1]) for folder in folders], 1),
            f"{max(max(curve(f, 'ratio/largest_difference')[1]) for f in folders):.1e}",
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    for arm in arms:
        folders = [folder for (name, _), folder in runs.items() if name == arm]
        near, steps, mean, error = _ratio_of(folders)
        lines += [
            "",
            f"`{arm}`: the mean of p/q is within three of its standard errors of 1 in {near} of "
            f"{steps} steps, and over all of them {mean:.5f} ± {error:.5f}.",
        ]
    lines += ["", "![Curves](curves.png)", ""]
    return "\n".join(lines)


def _ratio_of(folders: Sequence[Path]) -> tuple[int, int, float, float]:
    """Of the steps' mean ratios: how many are 1 within their error, how many there are, their mean
    and its standard error."""
    means = np.concatenate([curve(folder, "ratio/mean")[1] for folder in folders])
    errors = np.concatenate([curve(folder, "ratio/stderr")[1] for folder in folders])
    # Where nothing explores, the difference is the rounding of float32.
    near = int((abs(means - 1.0) <= 3.0 * errors + 1e-6).sum())
    return near, len(means), float(means.mean()), float((errors**2).sum() ** 0.5 / len(errors))


def _shown(values: list[float], digits: int = 3) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"
