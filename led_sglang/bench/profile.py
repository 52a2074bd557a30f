"""`--profile`: a torch-profiler trace of each arm's decode steps, and where their time goes."""

from __future__ import annotations

import gzip
import importlib
import json
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_sglang.bench import BenchError
from led_sglang.bench.load import LoadGenerator
from led_sglang.bench.measure import answers
from led_sglang.bench.plan import Plan
from led_sglang.bench.watch import ServerView

_STEPS = 20
# SGLang's name of a step that prefills.
_PREFILL = "step[EXTEND"
_SHOWN = 15
# CUDA calls that make the host wait for the device.
_SYNCHRONISES = re.compile(
    r"cu(da)?(Stream|Device|Event|Ctx)Synchronize|cu(da)?Memcpy(DtoH\w*|HtoD\w*)?(_v2)?$"
)
_OWN_FILES = re.compile(r"(^|/)(led_sglang|kernels|patches)/[\w/]+\.py\(\d+\): ")
_STEP = re.compile(r"patches/sampling\.py\(\d+\): forward$")


@dataclass(frozen=True)
class Profile:
    """Where the decode steps of one trace spend their time, in microseconds per step.

    Attributes:
        steps: decode steps in the trace.
        kernels: device kernels by name, (us, launches) per step, the costliest first.
        functions: this package's Python functions, (us, calls) per step, callees included.
        idle_us: time in which the device runs no kernel.
        synchronisations: host waits per step, by the name of the call.
    """

    steps: int
    kernels: dict[str, tuple[float, float]]
    functions: dict[str, tuple[float, float]]
    idle_us: float | None
    synchronisations: dict[str, float]


def profile_arms(
    plan: Plan, size: int, server: ServerView, load: LoadGenerator, folder: Path
) -> str:
    """Trace the baseline and every arm at one batch size.

    Returns:
        Markdown; the traces lie in `folder`/profile.
    """
    sections = [f"\n## Profile, batch {size}\n"]
    for arm in (plan.baseline, *plan.arms):
        traces = folder / "profile" / re.sub(r"\W+", "-", arm.name)
        flags = ["--profile", "--profile-steps", str(_STEPS)]
        flags += ["--profile-output-dir", str(traces.resolve())]
        answers(server, load, plan, arm, size, 1, *flags)
        found = sorted(traces.rglob("*.json.gz"))
        if not found:
            raise BenchError(f"SGLang's profiler left no trace in {traces}")
        profile = read_profile(found[-1])
        sections.append(profile_markdown(arm.name, profile, found[-1].relative_to(folder)))
    return "\n".join(sections)


def read_profile(path: Path) -> Profile:
    """Read a trace that torch's profiler exported with Python stacks.

    Raises:
        BenchError: no decode step of a LED server is in it.
    """
    with gzip.open(path, "rt", encoding="utf-8") as content:
        events = [e for e in json.load(content)["traceEvents"] if "dur" in e]
    # Prefill comes first, of some requests beside the first decode steps of others.
    prefills = [e["ts"] + e["dur"] for e in events if e["name"].startswith(_PREFILL)]
    begin = max(prefills, default=0.0)
    events = [e for e in events if e["ts"] >= begin]
    steps = sum(bool(_STEP.search(e["name"])) for e in events if e.get("cat") == "python_function")
    if steps == 0:
        raise BenchError(f"{path} holds no decode step")
    kernels = [e for e in events if e.get("cat") == "kernel"]
    own = [e for e in events if e.get("cat") == "python_function" and _OWN_FILES.search(e["name"])]
    waits: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and _SYNCHRONISES.match(
            event["name"]
        ):
            waits[event["name"]] += 1 / steps
    return Profile(
        steps=steps,
        kernels=_per_step(kernels, steps),
        functions=_per_step(own, steps),
        idle_us=_idle_us(kernels, steps) if kernels else None,
        synchronisations=dict(waits),
    )


def profile_markdown(arm: str, profile: Profile, trace: Path) -> str:
    """Tables of one arm."""
    lines = [f"### {arm}", "", f"{profile.steps} steps; trace: {trace}"]
    if profile.kernels:
        own = own_kernels()
        lines += ["", "| kernel | LED's | us per step | launches |", "|---|---|---|---|"]
        ranked = list(profile.kernels.items())
        shown = ranked[:_SHOWN] + [x for x in ranked[_SHOWN:] if x[0] in own]
        lines += [
            f"| {name[:80]} | {'yes' if name in own else ''} | {us:.1f} | {count:.1f} |"
            for name, (us, count) in shown
        ]
        waits = ", ".join(f"{n} {c:.1f}" for n, c in profile.synchronisations.items()) or "none"
        lines += [
            "",
            f"Device idle: {profile.idle_us:.0f} us per step. Host waits per step: {waits}.",
        ]
    lines += ["", "| function of this package | us per step | calls |", "|---|---|---|"]
    lines += [
        f"| {name} | {us:.0f} | {count:.1f} |"
        for name, (us, count) in list(profile.functions.items())[:_SHOWN]
    ]
    return "\n".join(lines) + "\n"


def own_kernels() -> set[str]:
    """Names of this package's Triton kernels, as a trace shows them."""
    from led_sglang.kernels import triton

    names = set()
    for module in pkgutil.iter_modules(triton.__path__):
        content = vars(importlib.import_module(f"{triton.__name__}.{module.name}"))
        names |= {n for n, v in content.items() if type(v).__name__.endswith("JITFunction")}
    return names


def _per_step(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, tuple[float, float]]:
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        times[event["name"]].append(float(event["dur"]))
    ranked = sorted(times.items(), key=lambda item: -sum(item[1]))
    return {name: (sum(each) / steps, len(each) / steps) for name, each in ranked}


def _idle_us(kernels: Sequence[Mapping[str, Any]], steps: int) -> float:
    """Gaps between kernels, whatever the stream; the last step's end is no gap."""
    spans = sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in kernels)
    idle, end = 0.0, spans[0][1]
    for begin, until in spans:
        idle += max(begin - end, 0.0)
        end = max(end, until)
    return idle / steps
