"""The benchmark command runs from the checkout; its times are looked at by nobody here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_smoke_run_saves_a_table_that_is_right(tmp_path: Path) -> None:
    run = benchmark(
        "--smoke", "--rows", "7", "--repeats", "2", "--out", str(tmp_path), interpret=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    saved = json.loads((tmp_path / "kernels.json").read_text())
    assert saved["header"]["smoke"] is True
    (line,) = saved["rows"]
    assert line["rows"] == 7
    # The kernels' logsumexp against float64: that they computed anything, and the right thing.
    assert 0.0 < line["max_error"] < 1e-5
    table = (tmp_path / "kernels.md").read_text()
    assert "| smoke | 72 | 300 | 7 |" in table


def test_the_predicted_table_is_the_one_on_the_page() -> None:
    run = benchmark("predict", interpret=False)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [line for line in run.stdout.splitlines() if line.startswith("| ")][1:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    batches = {(card, model, batch) for card, model, batch, *_ in cells}
    assert len(batches) == len(rows) == 4 * 3 * 4
    assert all(int(floor) <= int(lse) + 1 < int(step) for *_, floor, lse, step in cells)
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text().splitlines()
    assert [row for row in rows if "| Qwen3-4B |" in row] == [
        line for line in page if "| Qwen3-4B |" in line
    ]


def test_without_a_device_it_refuses_to_measure(tmp_path: Path) -> None:
    run = benchmark("--out", str(tmp_path), interpret=False)
    assert run.returncode == 2
    assert "no CUDA device" in run.stderr
    assert not list(tmp_path.iterdir())
