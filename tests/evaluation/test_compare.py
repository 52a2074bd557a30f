"""`led-sglang eval --compare`: paired differences of two finished runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from eval_harness import engine, led_eval, running, small_grid


def test_compare_two_runs(tmp_path: Path) -> None:
    with running(engine()) as url:
        tasks = ["aime24", "math500"]
        for name in ("regular", "led"):
            grid = small_grid(url, tmp_path / name, "--samplers", name, tasks=tasks)
            assert led_eval(*grid).returncode == 0
        both = small_grid(url, tmp_path / "both", tasks=tasks)
        assert led_eval(*both).returncode == 0
    done = led_eval("--compare", tmp_path / "regular", tmp_path / "led")
    assert done.returncode == 0, done.stderr
    assert "led - regular" in done.stdout
    assert "different versions" not in done.stdout
    sessions = tmp_path / "led" / "sessions.jsonl"
    sessions.write_text(sessions.read_text().replace("led-sglang", "led-sglang-before"))
    mixed = led_eval("--compare", tmp_path / "regular", tmp_path / "led")
    assert len(re.findall("graded by different versions .*led-sglang-before", mixed.stdout)) == 1
    # The same samples in one run: its own paired differences must come out again.
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    for entry in metrics["paired"]:
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in done.stdout.splitlines()
            if line.startswith("|")
        ]
        (line,) = [
            cells
            for cells in lines
            if cells[0] == entry["task"]
            and cells[2] == f"{entry['temperature']:g}"
            and cells[3] == entry["metric"]
        ]
        assert float(line[4]) == pytest.approx(entry["difference"], abs=0.051)
        low, high = (float(text) for text in line[5].split(" .. "))
        assert (low, high) == (
            pytest.approx(entry["low"], abs=0.051),
            pytest.approx(entry["high"], abs=0.051),
        )


def test_compare_refuses_an_unfinished_run(tmp_path: Path) -> None:
    with running(engine()) as url:
        assert led_eval(*small_grid(url, tmp_path, tasks=["aime24"])).returncode == 0
    next(tmp_path.glob("samples/*/*/*/output-rs3.jsonl")).unlink()
    refused = led_eval("--compare", tmp_path, tmp_path)
    assert refused.returncode == 2
    assert "75 of 80" in refused.stderr
