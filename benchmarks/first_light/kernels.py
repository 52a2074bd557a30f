"""Part A's own processes: the doctor's checks of a device, one at a time, as lines of JSON.

python -m benchmarks.first_light.kernels accuracy --out DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from led_sglang.common.versions import versions
from led_sglang.doctor.device import accuracy, examine, repeats, speed
from led_sglang.doctor.device.batch import alike, random_head, run
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import INTERPRETED, ON_A_GPU, Shape
from led_sglang.kernels import NoiseStream, Step

_ROWS = (7, 56, 112, 182, 448)
_HIDDEN = (2560, 5120)
# compute-sanitizer slows a kernel down some hundred times.
_SMALL = replace(ON_A_GPU, hidden=256, vocab=1009)
_STEPS = 1000


class Bench:
    """What the checks are run on.

    Attributes:
        shape: of the step; `toy` in a rehearsal.
        out: folder for what is not a line.
    """

    def __init__(self, shape: Shape, toy: bool, out: Path) -> None:
        self.shape, self.toy, self.out = shape, toy, out
        self.device = torch.device("cpu" if toy else "cuda")

    def prepared(self, shape: Shape | None = None) -> tuple[Step, Shape, Tensor]:
        """A step, its shape and its LM head, as every check of the doctor takes them."""
        shape = shape or self.shape
        weight = random_head(shape, self.device)
        return examine.prepare_step(shape, weight), shape, weight


def versions_and_device(bench: Bench) -> Iterator[Finding]:
    python = sys.version.split()[0]
    yield Finding("versions", None, f"{versions(('torch', 'triton', 'sglang'))}, Python {python}")
    yield Finding("device", None, examine.describe(bench.device))
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False, timeout=30)  # to the log


def step_as_the_oracle(bench: Bench) -> Iterator[Finding]:
    step, shape, weight = bench.prepared()
    yield Finding("kernels compiled", step.name == "triton", step.reason or f"{shape}")
    yield accuracy.decisions(step, shape, weight)
    yield accuracy.against_torch(step, shape, weight)


def all_rows(bench: Bench) -> Iterator[Finding]:
    for hidden in (bench.shape.hidden,) if bench.toy else _HIDDEN:
        step, shape, weight = bench.prepared(replace(bench.shape, hidden=hidden))
        for rows in _ROWS[:2] if bench.toy else _ROWS:
            name = f"H {hidden}, {rows} rows"
            yield accuracy.probabilities(name, rows // shape.layers, step, shape, weight)


def rows_alone(bench: Bench) -> Iterator[Finding]:
    yield repeats.independence(*bench.prepared())


def repeatable(bench: Bench) -> Iterator[Finding]:
    yield repeats.repeatability(*bench.prepared(), 2 if bench.toy else _STEPS)


def replayed(bench: Bench) -> Iterator[Finding]:
    yield repeats.replay(*bench.prepared())


def small_step(bench: Bench) -> Iterator[Finding]:
    """One step of a few requests, for compute-sanitizer to watch."""
    step, shape, weight = bench.prepared(replace(_SMALL, depth=bench.shape.depth))
    result = run(step, alike(5, shape, weight))[2]
    fits = step.name == "triton" and bool((result.token_ids < shape.vocab).all())
    yield Finding("a step ran", fits, step.reason or f"{shape}, tokens {result.token_ids.tolist()}")


def profiled(bench: Bench) -> Iterator[Finding]:
    """Kernels of 50 steps by time, and a trace of them for Perfetto."""
    from torch.profiler import ProfilerActivity, profile

    step, shape, weight = bench.prepared()
    for count in (1, 8, 64):
        stream = NoiseStream.start(0, bench.device)
        whole = partial(run, step, alike(count, shape, weight), stream)
        kernels = speed.kernel_microseconds(whole, 50)
        seen = ", ".join(f"{name} {us:.1f}" for name, us in kernels.items())
        total = sum(kernels.values())
        yield Finding(f"B = {count}, us per step", None, f"{total:.0f} in all: {seen}")
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            for _ in range(5):
                whole()
            torch.cuda.synchronize()
        trace.export_chrome_trace(str(bench.out / f"steps_of_{count}.json"))


CHECKS = {
    "versions": versions_and_device,
    "step": step_as_the_oracle,
    "accuracy": all_rows,
    "rows-alone": rows_alone,
    "repeatable": repeatable,
    "replay": replayed,
    "profile": profiled,
    "small": small_step,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=ON_A_GPU.depth)
    parser.add_argument("--toy", action="store_true", help="in Triton's interpreter, small")
    options = parser.parse_args()
    if options.toy:
        from led_sglang.doctor.device.interpreter import speed_up

        speed_up()
    shape = replace(INTERPRETED if options.toy else ON_A_GPU, depth=options.depth)
    failed = False
    for finding in CHECKS[options.check](Bench(shape, options.toy, options.out)):
        print(json.dumps(asdict(finding)), flush=True)
        failed |= finding.passed is False
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
