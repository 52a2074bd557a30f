"""Timers and the machine's own ceilings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Larger than any L2 there is: written between two calls, so that none finds its inputs cached.
_FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Times:
    """Microseconds per call."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Ceilings:
    """copy: bytes read plus written per second. gemm: bf16 FLOP per second, random data."""

    copy: float
    gemm: float


def times(call: Callable[[], object], device: torch.device, repeats: int) -> Times:
    """Times of ``call`` with cold caches, on a GPU after three calls that are not counted."""
    for _ in range(3 if device.type == "cuda" else 0):
        call()
    samples = _device_samples(call, repeats) if device.type == "cuda" else _host(call, repeats)
    median = statistics.median(samples)
    if len(samples) == 1:
        return Times(median, median, median)
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return Times(cuts[0], median, cuts[8])


def _device_samples(call: Callable[[], object], repeats: int) -> list[float]:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    torch.cuda.synchronize()
    for start, end in events:
        # The flush keeps the device busy while the host queues the call: no launch gap is timed.
        for _ in range(4):
            flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in events]


def _host(call: Callable[[], object], repeats: int) -> list[float]:
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        samples.append(1e6 * (time.perf_counter() - start))
    return samples


def replay_microseconds(call: Callable[[], object], device: torch.device, repeats: int) -> Any:
    """Median time of ``call`` captured once as a CUDA graph and replayed; None without a device."""
    if device.type != "cuda":
        return None
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return times(graph.replay, device, repeats).p50


def enqueue_microseconds(call: Callable[[], object], device: torch.device, repeats: int) -> Any:
    """Median time the host takes to launch ``call``; None without a device."""
    if device.type != "cuda":
        return None
    samples = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        samples.append(1e6 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return statistics.median(samples)


def ceilings(device: torch.device, smoke: bool) -> Ceilings:
    """What this machine reaches in a plain copy and a plain bf16 matrix product."""
    size, n = (2**20, 128) if smoke else (2**31, 8192)
    copy, gemm = _copy_microseconds(size, device), _gemm_microseconds(n, device)
    return Ceilings(copy=2e6 * size / copy, gemm=2e6 * n**3 / gemm)


def _copy_microseconds(size: int, device: torch.device) -> float:
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return times(lambda: target.copy_(source), device, 20).p50


def _gemm_microseconds(n: int, device: torch.device) -> float:
    a = torch.randn(n, n, device=device).bfloat16()
    b = torch.randn(n, n, device=device).bfloat16()
    return times(lambda: a @ b, device, 20).p50


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Memory ``call`` takes beyond what is already held; None without a CUDA device."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)
