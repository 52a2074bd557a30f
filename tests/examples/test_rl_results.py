"""The page of the rollouts' experiment says what the trainers' logs hold."""

from __future__ import annotations

import json
from pathlib import Path

from rl_rollouts.results import write_results


def log(folder: Path, rewards: list[float], ratios: list[float]) -> Path:
    """A finished run of as many steps, measured before the first and after the last."""
    folder.mkdir()
    entries: list[dict[str, float]] = [{"step": 0, "held_out": 0.5}]
    for step, (reward, ratio) in enumerate(zip(rewards, ratios, strict=True), 1):
        entry = {"step": step, "reward": reward, "entropy": 0.25, "step_time": 30.0}
        entry |= {"ratio/mean": ratio, "ratio/stderr": 0.01, "ratio/max": 2.0 * ratio}
        entries.append(entry | {"ratio/largest_difference": 0.125})
    entries.append({"step": len(rewards), "held_out": 0.5 + rewards[-1] / 10})
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    return folder


def test_page_of_two_arms(tmp_path: Path) -> None:
    runs = {
        ("regular", 0): log(tmp_path / "regular-0", [0.0, 1.0], [1.0, 1.0]),
        ("regular", 1): log(tmp_path / "regular-1", [0.0, 0.5], [1.0, 1.0]),
        ("led", 0): log(tmp_path / "led-0", [0.5, 1.0], [1.02, 0.9]),
        ("led", 1): log(tmp_path / "led-1", [0.5, 1.0], [0.98, 1.1]),
    }
    write_results(tmp_path, runs)
    page = (tmp_path / "RESULTS.md").read_text()
    assert ", 4 minutes of training steps, " in page
    assert (
        "| regular | 0.500 ± 0.000 | 0.575 ± 0.025 | 0.375 ± 0.125 | 0.250 ± 0.000 "
        "| 1.0000 ± 0.0000 | 2.0 ± 0.0 | 1.2e-01 |" in page
    )
    assert (
        "`regular`: the mean of p/q is within three of its standard errors of 1 in 4 of 4" in page
    )
    assert (
        "`led`: the mean of p/q is within three of its standard errors of 1 in 2 of 4 steps, "
        in page
    )
    assert "over all of them 1.00000 ± 0.00500." in page
    assert (tmp_path / "curves.png").stat().st_size > 10_000
