"""Ceilings of the machine, then every kernel against them: see benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

from led_sglang.doctor.device.timers import (
    Ceilings,
    ceilings,
    enqueue_microseconds,
    peak_bytes,
    replay_microseconds,
    times,
)
from led_sglang.kernels.triton import tiles
from led_sglang.kernels.triton.workspace import workspace_bytes

from .problem import LAYERS, MODELS, SMOKE_MODEL, Model, Problem
from .report import save

ROWS = (7, 14, 28, 56, 112, 182, 224, 252, 448, 896)


def missing_quack(device: torch.device) -> str | None:
    """Why quack is not compared, or None if it is."""
    if device.type != "cuda":
        return "needs a CUDA device"
    try:
        from quack.epilogue.library import rstd_lse_epi  # noqa: F401
    except ImportError as error:
        return f"not installed ({error})"
    return None


def quack_microseconds(problem: Problem, truth: torch.Tensor, repeats: int) -> float:
    """Median time of quack's logsumexp, after a look at what it computes."""
    error = (problem.lse_quack().double() - truth).abs().max().item()
    assert error < 1e-3, f"quack's logsumexp is off by {error}"
    return times(problem.lse_quack, truth.device, repeats).p50


def measure(
    model: Model,
    weight: torch.Tensor,
    rows: int,
    machine: Ceilings,
    repeats: int,
    quack: str | None,
) -> dict[str, Any]:
    """One line of the table. Times are medians in microseconds. quack: why it is not compared."""
    problem = Problem(weight, rows // LAYERS)
    device = weight.device

    def median(call: Any) -> float:
        return times(call, device, repeats).p50

    weight_bytes = weight.numel() * weight.element_size()
    flop = 2.0 * rows * weight.numel()
    by_bandwidth, by_rate = weight_bytes / machine.copy, flop / machine.gemm
    floor = 1e6 * max(by_bandwidth, by_rate)
    ours = times(problem.latent_lse, device, repeats)
    truth = problem.lse_float64()
    error = (problem.lse_ours() - truth).abs().max().item()
    others = (
        *(problem.posterior, problem.gate, problem.gather),
        *(problem.partials, problem.combine, problem.settle),
    )
    line = {
        "model": model.name,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "rows": rows,
        "bound": "bandwidth" if by_bandwidth >= by_rate else "arithmetic",
        "floor_us": floor,
        "ours_p10_us": ours.p10,
        "ours_us": ours.p50,
        "ours_p90_us": ours.p90,
        "percent_of_floor": 100.0 * floor / ours.p50,
        "gb_per_s": weight_bytes / ours.p50 / 1e3,
        "tflop_per_s": flop / ours.p50 / 1e6,
        "cublas_us": median(problem.lse_cublas),
        "quack_us": quack_microseconds(problem, truth, repeats) if quack is None else None,
        "others_us": sum(median(call) for call in others),
        "whole_us": median(problem.whole),
        "graph_us": replay_microseconds(problem.whole, device, repeats),
        "enqueue_us": enqueue_microseconds(problem.whole, device, repeats),
        "eager_us": median(problem.eager),
        "authors_us": median(problem.authors),
        "workspace_mb": sum(map(workspace_bytes, (problem.workspace, problem.scratch))) / 1e6,
        "step_peak_mb": None,
        "max_error": error,
    }
    peak = peak_bytes(problem.whole, device)
    line["step_peak_mb"] = None if peak is None else peak / 1e6
    idle = Problem(weight, rows // LAYERS, explores=False)
    line["idle_us"] = median(idle.whole)
    line["idle_graph_us"] = replay_microseconds(idle.whole, device, repeats)
    return line


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["host"]:
        from . import host  # the whole package; measuring on a device needs torch and Triton alone

        return host.main()
    if arguments[:1] == ["predict"]:
        from . import predict

        return predict.main()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), help="multiples of 7")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument(
        "--smoke", action="store_true", help="a toy problem that only shows the command runs"
    )
    options = parser.parse_args(arguments)
    if any(rows % LAYERS or rows <= 0 for rows in options.rows):
        parser.error(f"--rows must be positive multiples of {LAYERS}")
    if not torch.cuda.is_available() and not options.smoke:
        parser.error("no CUDA device: only --smoke runs here, and its times mean nothing")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    quack = missing_quack(device)
    machine = ceilings(device, options.smoke)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    header = {
        "device": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "smoke": options.smoke,
        "row tiles": tiles.row_tiles(torch.bfloat16, tiles.chip_of(device).card),
        "quack": quack or importlib.metadata.version("quack-kernels"),
        "copy GB/s": machine.copy / 1e9,
        "GEMM TFLOP/s": machine.gemm / 1e12,
    }
    table = []
    for model in [SMOKE_MODEL] if options.smoke else [MODELS[n] for n in options.models]:
        weight = torch.randn(model.vocab, model.hidden, device=device) / model.hidden**0.5
        weight = weight.bfloat16()
        for rows in options.rows:
            table.append(measure(model, weight, rows, machine, options.repeats, quack))
            print(table[-1], flush=True)
            save(options.out, header, table)
        del weight


if __name__ == "__main__":
    main()
