"""All checks of one device, from what it is to what a step takes, as a Markdown table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from led_sglang.common.terminal import CommandError
from led_sglang.common.versions import versions
from led_sglang.doctor.device import repeats, speed
from led_sglang.doctor.device.accuracy import (
    against_torch,
    decisions,
    explorers_of_tiles,
    probabilities,
)
from led_sglang.doctor.device.batch import LARGEST_BATCH, launch_limits, random_head, rms_norm
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import INTERPRETED, ON_A_CPU, ON_A_GPU, Shape
from led_sglang.kernels import LmHeadShard, Step, prepare


@dataclass(frozen=True)
class Effort:
    """How long the checks may take.

    Attributes:
        steps: of the check that results repeat.
        repeats: of each time.
    """

    steps: int
    repeats: int


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def default_shape(device: torch.device) -> Shape:
    """What is checked on a device where nobody says."""
    if device.type == "cuda":
        return ON_A_GPU
    return INTERPRETED if interpreted() else ON_A_CPU


def default_effort(device: torch.device) -> Effort:
    """1,000 steps on a GPU; on a CPU, and in the interpreter, what takes about as long."""
    if device.type == "cuda":
        return Effort(steps=1000, repeats=50)
    return Effort(steps=3, repeats=1) if interpreted() else Effort(steps=100, repeats=5)


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        CommandError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise CommandError(
            "there is no GPU that torch can use here: check `nvidia-smi` and that torch is a CUDA "
            "build, or take --device cpu"
        )
    return torch.device(name)


def examine_device(device: torch.device, shape: Shape, effort: Effort) -> Iterator[Finding | str]:
    """The lines of the table one by one, each when it is known; strings are the head above it.

    Raises:
        CommandError: the checks do not fit the device's memory.
    """
    _refuse_too_little_memory(device, shape)
    yield f"* {versions(('sglang', 'torch', 'triton'))}, Python {sys.version.split()[0]}"
    yield f"* {describe(device)}"
    yield f"* shape: {shape}"
    if interpreted():
        from led_sglang.doctor.device.interpreter import speed_up

        speed_up()
        yield "* in Triton's interpreter, which sorts by numpy and whose times mean nothing"
    weight = random_head(shape, device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step = prepare_step(shape, weight)
    yield "\n| check | | seen |\n|---|---|---|"
    name = f"{step.name} (Triton's interpreter)" if interpreted() else step.name
    wanted = "cpu" if device.type == "cpu" and not interpreted() else "triton"
    yield Finding("who computes", step.name == wanted, step.reason or name)
    if device.type == "cuda":
        held = (torch.cuda.memory_allocated(device) - before) / 1e6
        yield Finding(
            "memory", None, f"{held:.1f} MB held for steps of up to {LARGEST_BATCH} requests"
        )
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        (f"p^l, {name}", _one(probabilities, name, count, step, shape, weight))
        for name, count in explorers_of_tiles(shape, step)
    ]
    checks += [
        ("as plain torch", _one(against_torch, step, shape, weight)),
        ("as the oracle", _one(decisions, step, shape, weight)),
        ("repeatable to the bit", _one(repeats.repeatability, step, shape, weight, effort.steps)),
        ("rows alone", _one(repeats.independence, step, shape, weight)),
        ("graph replay", _one(repeats.replay, step, shape, weight)),
    ]
    if not interpreted():
        checks.append(("times", lambda: _times(step, shape, weight, effort.repeats)))
    for name, check in checks:
        try:
            yield from check()
        except RuntimeError as error:  # out of memory, an illegal access, a kernel that fails
            summary = (str(error).splitlines() or [""])[0]
            yield Finding(name, False, f"{type(error).__name__}: {summary}")
    if step.name == wanted and step.reason is not None:
        yield Finding("all of it in kernels", False, step.reason)


def _one(check: Callable[..., Finding], *given: object) -> Callable[[], list[Finding]]:
    return lambda: [check(*given)]


def _times(step: Step, shape: Shape, weight: Tensor, count: int) -> Iterator[Finding]:
    peak, seen = speed.roof(weight.device)
    yield seen
    yield from speed.speeds(step, shape, weight, peak, count)


def prepare_step(shape: Shape, weight: Tensor) -> Step:
    head = LmHeadShard(weight, 0, shape.vocab)
    return prepare(head, launch_limits(shape), device=weight.device, final_norm=rms_norm)


def describe(device: torch.device) -> str:
    """The device in words: name, architecture, memory, driver."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {torch.backends.cpu.get_cpu_capability()}, {threads} threads of torch"
    card = torch.cuda.get_device_properties(device)
    words = [
        f"{card.name}, sm_{card.major}{card.minor}, {card.multi_processor_count} multiprocessors",
        f"{card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
    ]
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
        if answer.returncode == 0:
            words.append(f"driver {answer.stdout.splitlines()[0].strip()}")
    return ", ".join(words)


def _refuse_too_little_memory(device: torch.device, shape: Shape) -> None:
    """The head in its own type and in float64, the logits of the largest batch, and room."""
    if device.type != "cuda":
        return
    need = shape.head_bytes + 8 * shape.hidden * shape.vocab + 16 * 512 * shape.vocab + 5e9
    free = torch.cuda.mem_get_info(device)[0]
    if free < need:
        raise CommandError(
            f"the checks need {need / 1e9:.1f} GB of device memory and {free / 1e9:.1f} are free: "
            "stop what runs on the device, or check a smaller --vocab-size"
        )


def failed(findings: Iterable[Finding | str]) -> bool:
    """Print every line when it is known; whether a check failed."""
    bad = False
    for line in findings:
        print(line, flush=True)
        bad |= isinstance(line, Finding) and line.passed is False
    return bad
