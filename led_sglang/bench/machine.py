"""The header of a report: hardware, versions, and what the machine could do at best."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil

from led_sglang.common.provenance import processor
from led_sglang.common.versions import versions

_COPY_BYTES = 2**28
_GEMM = 4096
_CPU_GEMM = 1024
_REPEATS = 10


def machine(device: str | None) -> dict[str, Any]:
    """Hardware, versions and ceilings of this machine.

    The ceilings are measured in a process of their own, which has given the accelerator's memory
    back before a server takes it.

    Args:
        device: "cpu", "cuda", or None for an accelerator where there is one.
    """
    ceilings: dict[str, Any] = {}
    done = subprocess.run(
        [sys.executable, "-m", "led_sglang.bench.machine", *([device] if device else [])],
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        ceilings = json.loads(done.stdout.splitlines()[-1])
    return {
        "processor": processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        **ceilings,
    }


def ceilings(device: str) -> dict[str, Any]:
    """Copy bandwidth and bf16 matrix rate of a device, the best of ten each."""
    import torch

    def synchronise() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def best_s(work: Any) -> float:
        times = []
        for _ in range(_REPEATS):
            synchronise()
            begin = time.perf_counter()
            work()
            synchronise()
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    size = _CPU_GEMM if device == "cpu" else _GEMM
    a = torch.randn(size, size, device=device).bfloat16()
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    return {
        "device": name,
        "copy_gb_per_s": 2 * _COPY_BYTES / best_s(lambda: target.copy_(source)) / 1e9,
        "bf16_tflop_per_s": 2 * size**3 / best_s(lambda: a @ a) / 1e12,
    }


def _main() -> None:
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = sys.argv[1] if len(sys.argv) > 1 else found
    print(json.dumps(ceilings(device)))


if __name__ == "__main__":
    _main()
