"""`led-sglang bench` end to end against a real CPU server; tiny, so its times mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import assert_progress

from led_sglang.models.bundled import bundled_model

DEPTH = 8


def test_a_whole_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "led_sglang.cli", "bench"]
    command += ["--model-path", str(bundled_model()), "--device", "cpu", "--out", str(out)]
    command += ["--samplers", "regular,led", "--explore-rate", "0.5,0", "--batch-sizes", "2,3,40"]
    command += ["--context", "16", "--output-len", "64", "--repeats", "1", "--profile"]
    command += ["--", "--max-total-tokens", "1024"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    # The largest batch does not fit: said, and the others are measured.
    assert done.returncode == 2, done.stderr
    assert "batch size 40 needs 3200 KV tokens and the server's pool holds 1024" in done.stderr
    content = json.loads((out / "bench.json").read_text())
    assert len(content["notes"]) == 1
    assert_progress(done.stderr, out / "server.log")
    rows = {(row["batch_size"], row["arm"]): row for row in content["rows"]}
    assert set(rows) == {(size, f"led, rate {rate}") for size in (2, 3) for rate in ("0.5", "0")}
    for (size, arm), row in rows.items():
        assert row["ratio"] > 0
        assert row["peak_memory_mb"] > 0
        # Work grows with exploring rows, not with the batch.
        explorers, projected = row["explorers_per_step"], row["projected_rows_per_step"]
        assert projected == pytest.approx(explorers * (DEPTH - 1))
        assert (0 < explorers < size) == (arm == "led, rate 0.5")
    text = (out / "bench.md").read_text()
    assert "## Profile, batch 3" in text
    assert "methods/led/sampler.py" in text.split("### led, rate 0.5")[1]
    assert "methods/led/sampler.py" not in text.split("### led, rate 0.5")[0]
    assert (out / "bench.png").stat().st_size > 10_000
    assert len((out / "runs.jsonl").read_text().splitlines()) == 1 + len(rows)
