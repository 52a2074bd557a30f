"""What first light does, part by part."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

CAPTURES = ("dflash", "eagle3", "boundary", "layer_input", "snapshot")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        room: A needs torch and Triton alone, B an installed led-sglang with SGLang.
        limit_s: after which it is ended.
        command: arguments of the Python interpreter; {out} is the part's folder.
        rehearsal: the same for a machine without a GPU; None where there is none.
        tool: a program that runs the interpreter.
        needs: modules that must be installed.
    """

    room: str
    name: str
    what: str
    limit_s: int
    command: tuple[str, ...]
    rehearsal: tuple[str, ...] | None = None
    tool: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def missing(self, rehearse: bool) -> str | None:
        """Why it cannot run here, or None."""
        if rehearse and self.rehearsal is None:
            return "it needs a GPU"
        if self.tool and shutil.which(self.tool[0]) is None:
            return f"{self.tool[0]} is not installed"
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{' and '.join(absent)} not installed" if absent else None

    def arguments(self, rehearse: bool, out: Path) -> list[str]:
        """Of the Python interpreter."""
        command = self.rehearsal if rehearse else self.command
        assert command is not None
        return [argument.format(out=out) for argument in command]


def _kernels(
    name: str, what: str, limit_s: int, *flags: str, toy: bool = True, tool: tuple[str, ...] = ()
) -> Part:
    check = name if not tool else "small"
    command = ("-m", "benchmarks.first_light.kernels", check, "--out", "{out}", *flags)
    return Part("A", name, what, limit_s, command, (*command, "--toy") if toy else None, tool)


def _server(name: str, what: str, limit_s: int, *flags: str, toy: bool = True) -> Part:
    command = ("-m", "benchmarks.first_light.server", *flags, "--out", "{out}")
    rehearsal = (*command, "--toy") if toy else None
    return Part("B", name, what, limit_s, command, rehearsal, needs=("sglang", "requests"))


_BENCHMARK = ("-m", "benchmarks.kernels", "--out", "{out}")
_SANITIZER = ("compute-sanitizer", "--error-exitcode", "1")

PARTS: tuple[Part, ...] = (
    _kernels("versions", "versions, the device, nvidia-smi", 60),
    _kernels("step", "the kernels compiled; one step as the oracle and as torch", 180),
    _kernels("accuracy", "p^l of every row against float64 and cuBLAS, H 2560 and 5120", 240),
    _kernels("rows-alone", "a row's bits in batches that other row tiles compute", 120),
    _kernels("repeatable", "1,000 steps of random sizes, the same bits", 180),
    _kernels("replay", "the step as a CUDA graph on other inputs", 120),
    Part(
        "A",
        "kernel-tests",
        "tests/triton on the device",
        600,
        ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/triton"),
        needs=("pytest", "hypothesis"),
    ),
    Part(
        "A",
        "benchmark",
        "every kernel against its floor, and the idle step",
        600,
        (*_BENCHMARK, "--models", "Qwen3-4B", "--rows", "7", "14", "56", "112", "182", "448"),
        (*_BENCHMARK, "--smoke", "--rows", "7", "--repeats", "2"),
    ),
    _kernels(
        "profile", "50 steps at B = 1, 8 and 64: kernels, and a trace to open", 180, toy=False
    ),
    _kernels(
        "memcheck", "compute-sanitizer over a step at V = 1009", 420, toy=False, tool=_SANITIZER
    ),
    _kernels(
        "racecheck",
        "the same for races in posterior, noise, gate and choice (a step without latents)",
        420,
        *("--depth", "1"),
        toy=False,
        tool=(*_SANITIZER, "--tool", "racecheck"),
    ),
    *(
        _server(
            f"capture-{kind}",
            "default flags; the first token's trace with and without prefill graphs",
            900,
            *("capture", "--kind", kind),
        )
        for kind in CAPTURES
    ),
    _server("decode-graphs", "decode graphs against none, bs 1, 3, 5, 17", 900, "decode-graphs"),
    _server("sync", "no part of LED's step waits for the device", 600, "sync", toy=False),
    _server(
        "overlap",
        "200 staggered requests with aborts and retractions, with and without overlap",
        900,
        "overlap",
    ),
    _server("memory", "device memory before, ready, under load and after", 600, "memory"),
    Part(
        "B",
        "throughput",
        "LED against regular in pairs, the shape of Qwen3-4B",
        3600,
        ("-m", "benchmarks.server", "4B", "--out", "{out}", "--repeats", "3"),
        needs=("sglang", "pandas", "matplotlib"),
    ),
)
