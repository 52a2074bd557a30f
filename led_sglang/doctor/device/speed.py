"""What a step takes, part by part and kernel by kernel, beside what the card could do at best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from led_sglang.doctor.device.batch import alike, run
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import Shape
from led_sglang.doctor.device.timers import Ceilings, ceilings, replay_microseconds, times
from led_sglang.kernels import Gate, NoiseStream, Step
from led_sglang.kernels.synthetic import SyntheticBatch

# By datasheet, dense: TB/s, bf16 TFLOP/s. The first that the card's name holds counts.
_CARDS = {
    "H200": (4.8, 989.0),
    "H20": (4.0, 148.0),
    "H100 NVL": (3.9, 835.0),
    "H100 PCIe": (2.0, 756.0),
    "H100": (3.35, 989.0),
    "A100-SXM4-40GB": (1.555, 312.0),
    "A100-PCIE-40GB": (1.555, 312.0),
    "A100": (2.0, 312.0),
}
# Requests that explore together.
_BATCHES = (1, 8, 64)
_PROFILED_STEPS = 10


def datasheet(name: str) -> Ceilings | None:
    """Peak bandwidth and bf16 rate of a card by its name; None for one that is not known."""
    found = next((peak for card, peak in _CARDS.items() if card in name), None)
    return None if found is None else Ceilings(copy=found[0] * 1e12, gemm=found[1] * 1e12)


def roof(device: torch.device) -> tuple[Ceilings, Finding]:
    """The ceilings that times are held against: the datasheet's, or what was measured."""
    measured = ceilings(device, smoke=device.type == "cpu")
    said = f"copy {measured.copy / 1e9:.0f} GB/s, bf16 product {measured.gemm / 1e12:.2f} TFLOP/s"
    known = datasheet(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known is not None:
        said += f"; by datasheet {known.copy / 1e9:.0f} and {known.gemm / 1e12:.0f}"
    return known or measured, Finding("measured here", None, said)


def floor_microseconds(shape: Shape, rows: int, peak: Ceilings) -> float:
    """Of latent rows through the LM head: it is read once, and multiplied with each of them."""
    if rows == 0:
        return 0.0
    flop = 2.0 * rows * shape.hidden * shape.vocab
    return 1e6 * max(shape.head_bytes / peak.copy, flop / peak.gemm)


def speeds(
    step: Step, shape: Shape, weight: Tensor, peak: Ceilings, repeats: int
) -> Iterator[Finding]:
    """A line for each batch size, its parts and its kernels, and one where nobody explores."""
    for count in _BATCHES:
        yield from _of_batch(step, shape, weight, peak, repeats, count, Gate.ALWAYS)
    yield from _of_batch(step, shape, weight, peak, repeats, _BATCHES[1], Gate.NEVER)


def _of_batch(
    step: Step,
    shape: Shape,
    weight: Tensor,
    peak: Ceilings,
    repeats: int,
    count: int,
    gate: Gate,
) -> Iterator[Finding]:
    batch = alike(count, shape, weight, gate)
    whole = partial(run, step, batch, NoiseStream.start(0, weight.device))
    rows = count * shape.layers if gate is Gate.ALWAYS else 0
    took = times(whole, weight.device, repeats)
    floor = floor_microseconds(shape, rows, peak)
    figures = f"{took.p50:.0f} us ({took.p10:.0f} .. {took.p90:.0f})"
    graphed = replay_microseconds(whole, weight.device, repeats)
    if graphed is not None:
        figures += f", as a graph {graphed:.0f}"
    if floor:
        best = took.p50 if graphed is None else graphed
        figures += f"; the roofline of its {rows} latent rows {floor:.0f} us, {floor / best:.0%}"
    who = "all exploring" if gate is Gate.ALWAYS else "nobody exploring"
    yield Finding(f"step of {count}, {who}", None, figures)
    parts = (f"{name} {us:.0f}" for name, us in _parts(step, batch, weight.device, repeats).items())
    yield Finding("- its calls, us", None, ", ".join(parts))
    if weight.is_cuda:
        kernels = (
            f"{name} {us:.1f}" for name, us in kernel_microseconds(whole, _PROFILED_STEPS).items()
        )
        yield Finding("- its kernels, us", None, ", ".join(kernels))


def _parts(
    step: Step, batch: SyntheticBatch, device: torch.device, repeats: int
) -> dict[str, float]:
    """Median microseconds of the three calls that are a step."""
    final, noise, _ = run(step, batch)
    stream = NoiseStream.start(0, device)
    origins = batch.seeds, batch.has_seed, batch.positions
    calls: dict[str, Callable[[], object]] = {
        "posterior": partial(step.final_posterior, batch.logits, batch.rows, batch.limits),
        "noise": partial(step.draw_noise, stream, *origins, final.ids),
        "rest": partial(step.led_step, final, batch.latents, batch.rows, batch.limits, noise),
    }
    return {name: times(call, device, repeats).p50 for name, call in calls.items()}


def kernel_microseconds(whole: Callable[[], object], steps: int) -> dict[str, float]:
    """Microseconds per step on a GPU, by the kernel's name, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    whole()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(steps):
            whole()
        torch.cuda.synchronize()
    totals = {e.key: e.self_device_time_total / steps for e in seen.key_averages()}
    return {name[:40]: us for name, us in sorted(totals.items(), key=lambda t: -t[1]) if us > 0.1}
