"""Synthetic steps: requests of every kind, and logits as large and as peaked as real ones."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import product

import torch
from torch import Tensor

from led_sglang.doctor.device.shape import Shape
from led_sglang.kernels import (
    FinalPosterior,
    Gate,
    LedLimits,
    LedResult,
    LedRows,
    NoiseStream,
    Step,
    StepNoise,
)

# Standard deviation of the logits: the largest of 150,000 is then about 25.
_SPREAD = 5.5
_TEMPERATURE = 0.6


@dataclass(frozen=True)
class Request:
    """One row as plain numbers; the fields are those of `LedRows`."""

    temperature: float = _TEMPERATURE
    greedy: bool = False
    depth: int = 8
    candidates: int = 8
    candidate_top_p: float = 1.0
    floor: float = 0.0
    final_norm: bool = False
    normalize_layers: bool = False
    release_layers: bool = False
    gate: Gate = Gate.ALWAYS
    gate_value: float = 0.0
    random_gate: bool = False
    owns: bool = True
    thinks: bool = True
    projects: bool = False


_DTYPES = {"int": torch.int64, "Gate": torch.int64, "bool": torch.bool, "float": torch.float32}


@dataclass(frozen=True)
class Batch:
    """Requests of one step and what the model made for them. C = depth: `release_layers` needs it.

    Attributes:
        logits: [B, V] f32.
        latents: [B, C, H], deepest first.
        seeds: [B] int64; every row has one, so that its noise is its own.
    """

    requests: tuple[Request, ...]
    logits: Tensor
    latents: Tensor
    seeds: Tensor
    limits: LedLimits
    rows: LedRows = field(init=False)

    def __post_init__(self) -> None:
        columns = {
            f.name: torch.tensor([getattr(r, f.name) for r in self.requests], dtype=_DTYPES[f.type])
            for f in fields(Request)
        }
        moved = {name: column.to(self.logits.device) for name, column in columns.items()}
        object.__setattr__(self, "rows", LedRows(**moved))

    def take(self, places: list[int]) -> Batch:
        """Some of the rows, in this order; sizes stay those of the whole."""
        index = torch.tensor(places, device=self.logits.device)
        return replace(
            self,
            requests=tuple(self.requests[i] for i in places),
            logits=self.logits[index],
            latents=self.latents[index],
            seeds=self.seeds[index],
        )


def random_head(shape: Shape, device: torch.device) -> Tensor:
    """An LM head [V, H] whose logits spread as widely as the hidden states' entries."""
    generator = torch.Generator(device).manual_seed(1)
    weight = torch.empty(shape.vocab, shape.hidden, dtype=shape.dtype, device=device)
    return weight.normal_(std=shape.hidden**-0.5, generator=generator)


def make_batch(requests: list[Request], shape: Shape, weight: Tensor) -> Batch:
    """Logits of a random state; the latents are that state, the more faded the deeper they lie."""
    device, count = weight.device, len(requests)
    generator = torch.Generator(device).manual_seed(1000 + count)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device) * _SPREAD

    state = normal(count, 1, shape.hidden)
    likeness = torch.linspace(0.6, 0.98, shape.depth, device=device)[:, None]
    noise = normal(count, shape.depth, shape.hidden)
    latents = (likeness * state + (1 - likeness.square()).sqrt() * noise).to(shape.dtype)
    limits = LedLimits(
        candidates=min(max(r.candidates for r in requests), shape.vocab),
        depth=shape.depth,
        final_norm=any(r.final_norm for r in requests),
        entropy=True,
    )
    logits = (state[:, 0].to(shape.dtype) @ weight.t()).float()
    seeds = torch.arange(count, device=device) * 7919 + 5
    return Batch(tuple(requests), logits, latents, seeds, limits)


def exploring(count: int, shape: Shape, gate: Gate = Gate.ALWAYS) -> list[Request]:
    """`count` requests of the shape's own depth and candidates."""
    return [Request(gate=gate, depth=shape.depth, candidates=shape.candidates)] * count


def of_every_kind(shape: Shape) -> list[Request]:
    """Every gate with every way to hold it, and every variant of docs/method.md#variants."""
    plain = Request(depth=shape.depth, candidates=shape.candidates)
    values = {Gate.ENTROPY: 1.0, Gate.RATE: 0.4}
    ways: list[dict[str, bool | float]] = [
        {},
        {"projects": True},
        {"greedy": True, "temperature": 1.0},
        {"greedy": True, "temperature": 1.0, "random_gate": True},
        {"thinks": False, "projects": True},
        {"owns": False},
    ]
    requests = [
        replace(plain, gate=gate, gate_value=values.get(gate, 0.0), **way)  # type: ignore[arg-type]
        for gate, way in product(Gate, ways)
    ]
    variants: list[dict[str, bool | float | int]] = [
        {"depth": 1},
        {"depth": min(2, shape.depth)},
        {"candidates": 1},
        {"candidates": 20},
        {"candidates": 64},
        {"candidates": 20, "candidate_top_p": 0.9},
        {"floor": 1e-3},
        {"final_norm": True},
        {"normalize_layers": True},
        {"release_layers": True, "depth": max(1, shape.depth - 1), "floor": 1e-6},
        {"temperature": 0.2},
        {"temperature": 2.0},
    ]
    return requests + [replace(plain, **v) for v in variants]  # type: ignore[arg-type]


def rms_norm(hidden: Tensor) -> Tensor:
    """[M, H] -> [M, H] with a gain, as a model's final norm; a row's own whatever M is."""
    gain = torch.linspace(2.0, 6.0, hidden.shape[-1], dtype=torch.float64, device=hidden.device)
    wide = hidden.double()
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain).to(hidden.dtype)


def run(step: Step, batch: Batch) -> tuple[FinalPosterior, StepNoise, LedResult]:
    """The whole step, seeded, at one position."""
    final = step.final_posterior(batch.logits, batch.rows, batch.limits)
    stream = NoiseStream.start(0, batch.logits.device)
    has_seed = torch.ones_like(batch.rows.owns)
    position = torch.full_like(batch.seeds, 11)
    noise = step.draw_noise(stream, batch.seeds, has_seed, position, final.ids)
    return final, noise, step.led_step(final, batch.latents, batch.rows, batch.limits, noise)
