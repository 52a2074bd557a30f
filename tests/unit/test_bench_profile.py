"""What `led-sglang bench --profile` reads out of a trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from led_sglang.bench import BenchError
from led_sglang.bench.profile import own_kernels, profile_markdown, read_profile


def trace_of(events: list[dict[str, Any]], path: Path) -> Path:
    with gzip.open(path, "wt") as out:
        json.dump({"traceEvents": events}, out)
    return path


def event(category: str, name: str, begin: float, micros: float) -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": begin, "dur": micros}


def test_a_trace_becomes_times_per_step(tmp_path: Path) -> None:
    own = sorted(own_kernels())[0]
    step = "patches/sampling.py(165): forward"
    events = [
        # Prefill, which is no decode step.
        event("user_annotation", "step[EXTEND bs=2 toks=8]", -100, 90),
        event("python_function", step, -90, 70),
        event("kernel", "prefill", -90, 70),
        *(event("python_function", step, at, 90) for at in (0, 100)),
        event("python_function", "sglang/srt/layers/sampler.py(9): forward", 0, 90),
        event("python_function", "kernels/torch_impl.py(1): led_step", 0, 40),
        event("kernel", "gemm", 0, 30),
        event("kernel", own, 40, 10),
        event("kernel", "gemm", 45, 55),
        event("cuda_runtime", "cudaStreamSynchronize", 0, 5),
        event("cuda_runtime", "cudaLaunchKernel", 0, 5),
    ]
    profile = read_profile(trace_of(events, tmp_path / "t.json.gz"))
    assert profile.steps == 2
    assert profile.kernels == {"gemm": (42.5, 1.0), own: (5.0, 0.5)}
    assert profile.functions == {step: (90.0, 1.0), "kernels/torch_impl.py(1): led_step": (20, 0.5)}
    assert profile.idle_us == 5.0
    assert profile.synchronisations == {"cudaStreamSynchronize": 0.5}
    text = profile_markdown("led", profile, Path("t"))
    assert f"| {own} | yes | 5.0 | 0.5 |" in text
    assert "cudaStreamSynchronize 0.5" in text


def test_a_trace_without_a_decode_step_is_refused(tmp_path: Path) -> None:
    path = trace_of([event("kernel", "gemm", 0, 1)], tmp_path / "t.json.gz")
    with pytest.raises(BenchError, match="no decode step"):
        read_profile(path)


def test_own_kernels_are_found() -> None:
    assert {"latent_lse_kernel", "split_statistics_kernel", "merge_splits_kernel"} <= own_kernels()
