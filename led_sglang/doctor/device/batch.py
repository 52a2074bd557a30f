"""The steps that are checked and timed, and how they are run."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from led_sglang.doctor.device.shape import Shape
from led_sglang.kernels import (
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    Step,
    StepNoise,
)
from led_sglang.kernels.synthetic import SyntheticBatch, own_logits, synthetic_batch

# The largest step that is prepared: of a server's batch, and the most candidates of a request.
LARGEST_BATCH = 256
_MOST_CANDIDATES = 64
# Enough that everything a request may set stands beside everything else.
_MIXED = 48


def launch_limits(shape: Shape) -> LaunchLimits:
    """What a server of this shape prepares for; one layer more than depth needs, for `release`."""
    return LaunchLimits(
        batch=LARGEST_BATCH,
        candidates=_MOST_CANDIDATES,
        depth=shape.depth,
        vocab=shape.vocab,
        captured=shape.depth,
        latents_dtype=shape.dtype,
        logits_dtypes=(torch.float32,),
    )


def random_head(shape: Shape, device: torch.device) -> Tensor:
    """An LM head [V, H] of independent normal entries."""
    generator = torch.Generator(device).manual_seed(1)
    weight = torch.empty(shape.vocab, shape.hidden, dtype=shape.dtype, device=device)
    return weight.normal_(std=shape.hidden**-0.5, generator=generator)


def mixed(shape: Shape, weight: Tensor, count: int = _MIXED) -> SyntheticBatch:
    """Requests of every kind. Every row has a seed, so that its noise is its own."""
    logits_of = own_logits(LmHeadShard(weight, 0, shape.vocab))
    limits = launch_limits(shape)
    batch = synthetic_batch(limits, shape.hidden, logits_of, device=weight.device, rows=count)
    return replace(batch, has_seed=torch.ones_like(batch.has_seed))


def alike(count: int, shape: Shape, weight: Tensor, gate: Gate = Gate.ALWAYS) -> SyntheticBatch:
    """Requests of the shape's own depth and candidates, all with one gate."""
    batch = mixed(shape, weight, count)

    def of(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((count,), value, dtype=dtype, device=weight.device)

    columns = {f.name: of(0, torch.bool) for f in fields(LedRows)} | {
        "temperature": of(0.6, torch.float32),
        "depth": of(shape.depth, torch.int64),
        "candidates": of(shape.candidates, torch.int64),
        "candidate_top_p": of(1.0, torch.float32),
        "floor": of(0.0, torch.float32),
        "gate": of(gate, torch.int64),
        "gate_value": of(0.0, torch.float32),
        "owns": of(1, torch.bool),
        "thinks": of(1, torch.bool),
    }
    limits = replace(
        batch.limits,
        candidates=min(shape.candidates, shape.vocab),
        depth=shape.depth,
        final_norm=False,
        entropy=False,
    )
    return replace(batch, rows=LedRows(**columns), limits=limits)


def take(batch: SyntheticBatch, places: list[int]) -> SyntheticBatch:
    """Some of the rows, in this order; sizes stay those of the whole."""
    index = torch.tensor(places, device=batch.logits.device)

    def of(record: object) -> dict[str, Any]:
        columns = vars(record).items()
        return {name: x[index] for name, x in columns if isinstance(x, Tensor)}

    return replace(batch, **of(batch), rows=LedRows(**of(batch.rows)))


def rms_norm(hidden: Tensor) -> Tensor:
    """[M, H] -> [M, H] with a gain, as a model's final norm; a row's own whatever M is."""
    gain = torch.linspace(2.0, 6.0, hidden.shape[-1], dtype=torch.float64, device=hidden.device)
    wide = hidden.double()
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain).to(hidden.dtype)


def run(
    step: Step, batch: SyntheticBatch, stream: NoiseStream | None = None
) -> tuple[FinalPosterior, StepNoise, LedResult]:
    """The whole step, the three calls of it in order.

    Args:
        stream: of the rows without a seed; None: a new one, whose upload waits for the device.
    """
    stream = stream or NoiseStream.start(0, batch.logits.device)
    final = step.final_posterior(batch.logits, batch.rows, batch.limits)
    noise = step.draw_noise(stream, batch.seeds, batch.has_seed, batch.positions, final.ids)
    return final, noise, step.led_step(final, batch.latents, batch.rows, batch.limits, noise)
