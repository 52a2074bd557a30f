"""A step held against another one that is trusted, on a synthetic batch at real shapes.

What may differ is what docs/method.md#numerics allows: two steps that are each 2e-3 off at most
differ by twice that. Decisions (gate, l*, token) are exact functions of such numbers, so they must
be equal wherever they hang by more: a row in which the trusted numbers themselves decide by less
than `TIE` is compared in its probabilities alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .eager.latent_lse import logits_blocks
from .step import Step
from .types import (
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

_T = TypeVar("_T")
# [M, H] -> [M, V], logits of hidden states over the whole vocabulary.
LogitsOf = Callable[[Tensor], Tensor]

# How far probabilities of two steps may lie apart, relative (docs/method.md#numerics).
TOLERANCE = 4e-3
# Below it entropies (nats), scores (nats) and gate draws count as a near tie.
TIE = 1e-2
# Of the final logits, as real models have them; the rows take turns.
_PEAKS = (25.0, 12.0, 18.0, 8.0)
# Hidden states so small that a soft cap is still a straight line.
_SMALL = 1e-2
_SEED = 0x1ED
_APART = "the ranks do not reach the same all-gathers"


@dataclass(frozen=True)
class SyntheticBatch:
    """What a step takes: B requests that differ in everything that a request may set.

    Attributes:
        logits: [B, V] final logits.
        latents: [B, C, H], deepest first.
        rows, limits: of the batch.
        seeds, positions: [B] int64.
        has_seed: [B] bool.
    """

    logits: Tensor
    latents: Tensor
    rows: LedRows
    limits: LedLimits
    seeds: Tensor
    has_seed: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Comparison:
    """Outcome of a comparison.

    Attributes:
        finding: one clause on the first thing that differs; None where nothing does.
        rows: of the batch.
        decided: those whose decisions were compared, too: no near tie.
    """

    finding: str | None
    rows: int
    decided: int


def own_logits(head: LmHeadShard) -> LogitsOf:
    """Logits by the head itself, in fp32, where one rank holds the whole vocabulary."""

    def logits_of(hidden: Tensor) -> Tensor:
        logits = torch.empty(len(hidden), head.valid, device=hidden.device)
        for at, block, z in logits_blocks(hidden, head, chunk=4096):
            logits[at, block] = z
        return logits

    return logits_of


def synthetic_batch(
    limits: LaunchLimits,
    hidden_size: int,
    logits_of: LogitsOf,
    *,
    device: torch.device,
    rows: int = 16,
    final_norm: bool = True,
) -> SyntheticBatch:
    """A batch with logits as real models have them, equal on every rank.

    The hidden states of a row share a direction that deeper layers have less of, and are so long
    that the final logits reach 25, 12, 18 or 8.

    Args:
        limits: the largest step, which the batch stays within.
        hidden_size: H.
        logits_of: called twice with [rows, H] of `limits.latents_dtype`.
        device: where the steps run.
        rows: B; the first 16 hold every gate, depth and switch.
        final_norm: whether the steps have the model's final norm.
    """
    count = min(rows, limits.batch)
    generator = torch.Generator().manual_seed(_SEED)
    direction = torch.randn(count, hidden_size, generator=generator)
    noise = torch.randn(count, limits.captured, hidden_size, generator=generator)
    # Deepest first: from little in common with the final layer to much.
    shared = torch.linspace(0.7, 0.98, max(limits.captured, 1))[: limits.captured, None]
    latents = shared * direction[:, None] + (1.0 - shared.square()).sqrt() * noise
    direction, latents = direction.to(device), latents.to(device)

    small = logits_of((direction * _SMALL).to(limits.latents_dtype)).float()
    peak = torch.tensor([_PEAKS[i % len(_PEAKS)] for i in range(count)]).to(device)
    length = _SMALL * peak / small.amax(1).clamp(min=1e-6)
    logits = logits_of((direction * length[:, None]).to(limits.latents_dtype))
    asked = _mixed_rows(count, limits, final_norm, device)
    return SyntheticBatch(
        logits=logits.to(limits.logits_dtypes[0]),
        latents=(latents * length[:, None, None]).to(limits.latents_dtype),
        rows=asked,
        limits=LedLimits(
            candidates=limits.candidates,
            depth=int(asked.depth.max()),
            final_norm=bool(asked.final_norm.any()),
            entropy=True,
        ),
        seeds=(torch.arange(count) * 7919 - 3).to(device),
        has_seed=(torch.arange(count) % 3 > 0).to(device),
        positions=(torch.arange(count) * 31).to(device),
    )


def _mixed_rows(
    count: int, limits: LaunchLimits, final_norm: bool, device: torch.device
) -> LedRows:
    """Requests in which periods without a common factor bring everything beside everything."""
    deepest, most = limits.depth, limits.candidates

    def turns(*values: float) -> Tensor:
        return torch.tensor([values[i % len(values)] for i in range(count)])

    def every(period: int, first: int) -> Tensor:
        return torch.arange(count) % period == first

    gate = turns(*Gate).long()
    value = torch.where(gate == Gate.ENTROPY, 1.0, 0.6)
    value = torch.where((gate == Gate.ENTROPY) | (gate == Gate.RATE), value, 0.0)
    greedy, release = every(7, 4), every(4, 2)
    depth = turns(deepest, 2, 1, deepest, 3, 2).long().clamp(max=deepest)
    columns = {
        "temperature": torch.where(greedy, 1.0, turns(0.6, 1.0, 0.6, 0.3, 1.5)),
        "greedy": greedy,
        # preset `release` skips h^{L-1}: depth d needs d latents
        "depth": torch.where(release, depth.clamp(max=max(limits.captured, 1)), depth),
        "candidates": turns(8, most, 8, 20, 1).long().clamp(max=most),
        "candidate_top_p": turns(1.0, 0.9, 1.0, 1.0, 0.99, 1.0),
        "floor": turns(0.0, 0.0, 1e-6, 0.0, 0.0, 1e-3, 0.0),
        "final_norm": every(5, 3) if final_norm else torch.zeros(count, dtype=torch.bool),
        "normalize_layers": every(6, 3),
        "release_layers": release,
        "gate": gate,
        "gate_value": value,
        "random_gate": every(2, 1),
        "owns": ~every(13, 10),
        "thinks": ~every(13, 11),
        "projects": every(3, 0),
    }
    return LedRows(**{name: column.to(device) for name, column in columns.items()})


class RanksTogether:
    """Has all ranks of a check reach every collective together, or none of them.

    Where a step raises on one rank before its all-gather, the others would wait for it for ever. So
    they ask each other first; who calls the all-gather calls `arrive` before it.

    Args:
        on_every_rank: whether a flag is true on every rank; None without other ranks.
    """

    def __init__(self, on_every_rank: Callable[[bool], bool] | None) -> None:
        self._on_every_rank = on_every_rank
        self._gathers = self._arrived = False

    def run(self, function: Callable[[], _T], *, gathers: bool) -> _T:
        """Call what may raise on this rank alone.

        Args:
            function: calls the all-gather once if `gathers`, else never.

        Raises:
            RuntimeError: it does not, or another rank did not come as far.
        """
        if self._on_every_rank is None:
            return function()
        self._gathers, self._arrived = gathers, False
        came = False
        try:
            result = function()
            came = True
        finally:
            # Those that gather have asked by then; those that do not, or fail before, ask here.
            together = self._arrived or self._on_every_rank(came and not gathers)
        if not together:
            raise RuntimeError(_APART)
        return result

    def arrive(self) -> None:
        """Wait for the other ranks.

        Raises:
            RuntimeError: one of them failed, or this all-gather is one too many.
        """
        if self._on_every_rank is None:
            return
        if self._arrived:
            raise RuntimeError(_APART)
        self._arrived = True
        if not self._on_every_rank(self._gathers):
            raise RuntimeError(_APART)


def compare(
    step: Step, trusted: Step, batch: SyntheticBatch, ranks: RanksTogether | None = None
) -> Comparison:
    """Run one batch through both steps; what either raises is a finding.

    Args:
        step: judged.
        trusted: its numbers decide what is right: plain torch.
        batch: equal on every rank.
        ranks: of both steps; None where there is one.
    """
    ranks = ranks or RanksTogether(None)
    count, outcomes = len(batch.logits), []
    for name, one in ((trusted.name, trusted), (step.name, step)):
        try:
            outcomes.append(_run(one, batch, ranks))
        except Exception as error:  # compilers, drivers and allocators each raise their own
            lines = str(error).splitlines() or [""]
            finding = f"the {name} step raised {type(error).__name__}: {lines[0]}"
            return Comparison(finding, count, 0)
        if one.reason is not None and one is step:
            return Comparison(f"the {name} step does not take it: {one.reason}", count, 0)
    right, judged = outcomes
    gate_firm, firm = _firm_rows(right, batch)
    return Comparison(
        _first_difference(judged, right, batch, gate_firm, firm), count, int(firm.sum())
    )


@dataclass(frozen=True)
class _Outcome:
    """All that one step made of the batch."""

    final: FinalPosterior
    noise: StepNoise
    result: LedResult
    stream: NoiseStream


def _run(step: Step, batch: SyntheticBatch, ranks: RanksTogether) -> _Outcome:
    stream = NoiseStream.start(_SEED, batch.logits.device)

    def before_gathering() -> tuple[FinalPosterior, StepNoise]:
        final = step.final_posterior(batch.logits, batch.rows, batch.limits)
        noise = step.draw_noise(stream, batch.seeds, batch.has_seed, batch.positions, final.ids)
        return final, noise

    final, noise = ranks.run(before_gathering, gathers=False)
    result = ranks.run(
        lambda: step.led_step(final, batch.latents, batch.rows, batch.limits, noise),
        gathers=batch.limits.depth > 1,
    )
    return _Outcome(final, noise, result, stream)


def _firm_rows(right: _Outcome, batch: SyntheticBatch) -> tuple[Tensor, Tensor]:
    """[B] bool each: rows whose gate, and rows all of whose decisions, hang by more than `TIE`."""
    rows, result, final = batch.rows, right.result, right.final
    mass = final.logprobs.double().exp().cumsum(1)
    at_the_edge = ((mass - rows.candidate_top_p[:, None]).abs() < TIE).any(1)
    at_the_edge &= rows.candidate_top_p < 1.0

    draw = (right.noise.gate - result.explore_probability).abs() < TIE
    likelier = rows.greedy & ~rows.random_gate
    half = (rows.gate == Gate.CONFIDENCE) & ((final.p1 - 0.5).abs() < TIE)
    threshold = (rows.gate == Gate.ENTROPY) & ((final.entropy - rows.gate_value).abs() < TIE)
    # Certain gates are no draw: 0 and 1 hang by nothing.
    certain = (result.explore_probability == 0.0) | (result.explore_probability == 1.0)
    gate_firm = ~(at_the_edge | threshold | torch.where(likelier, half, draw & ~certain))

    p = result.layer_probs.double()
    c = p.cumsum(1)
    a = c / c.sum(2, keepdim=True).clamp(min=1e-300)
    entropy = -torch.special.xlogy(a, a).sum(2)
    # A layer that adds nothing is no rival of the nearer one.
    entropy = entropy.masked_fill(p.sum(2) == 0.0, -torch.inf)
    entropy[:, 0] = torch.nan_to_num(entropy[:, 0], neginf=0.0)
    star = entropy.argmax(1)
    firm = gate_firm & (_gap(entropy) >= TIE)
    for side in (a[:, 0], a[torch.arange(len(a), device=a.device), star]):
        score = side.log() + torch.where(rows.greedy[:, None], 0.0, right.noise.pick)
        firm &= _gap(score) >= TIE
    return gate_firm, firm


def _gap(values: Tensor) -> Tensor:
    """[B] between the largest and the second of [B, n]; inf where there is no second."""
    if values.shape[1] < 2:
        return torch.full_like(values[:, 0], torch.inf)
    top = values.topk(2, dim=1).values
    return torch.where(top[:, 1] == -torch.inf, torch.inf, top[:, 0] - top[:, 1])


def _first_difference(
    own: _Outcome, right: _Outcome, batch: SyntheticBatch, gate_firm: Tensor, firm: Tensor
) -> str | None:
    """One clause on the first number of a step that is not the trusted one's, or None."""
    ids, logprobs = right.final.ids, right.final.logprobs
    result, trusted = own.result, right.result
    everywhere = torch.ones_like(firm)
    owned = firm & batch.rows.owns
    # Beyond a row's own candidates ids mean nothing.
    slots = logprobs > -torch.inf
    compared: list[tuple[str, Tensor, Tensor, Tensor, float, float]] = [
        ("candidates", own.final.ids * slots, ids * slots, gate_firm, 0.0, 0.0),
        ("log p of the final layer", own.final.logprobs, logprobs, gate_firm, 0.0, TOLERANCE),
        ("p1", own.final.p1, right.final.p1, everywhere, TOLERANCE, 0.0),
        ("entropy", own.final.entropy, right.final.entropy, everywhere, TOLERANCE, TOLERANCE),
        ("gate's noise", own.noise.gate, right.noise.gate, everywhere, 1e-9, 1e-9),
        ("tokens' noise", own.noise.pick * slots, right.noise.pick * slots, gate_firm, 1e-9, 1e-9),
        ("noise stream", own.stream.step, right.stream.step, everywhere[:1], 0.0, 0.0),
        (
            "probability to explore",
            result.explore_probability,
            trusted.explore_probability,
            gate_firm,
            0.0,
            TOLERANCE,
        ),
        ("explored", result.explored, trusted.explored, gate_firm, 0.0, 0.0),
        # Below the smallest normal fp32 there is no relative error to speak of.
        ("p of the layers", result.layer_probs, trusted.layer_probs, gate_firm, TOLERANCE, 1e-37),
        ("depth", result.depth, trusted.depth, firm, 0.0, 0.0),
        ("token", result.token_ids, trusted.token_ids, owned, 0.0, 0.0),
        ("q", result.behaviour_probs, trusted.behaviour_probs, owned, TOLERANCE, TOLERANCE),
        (
            "log q of the token",
            result.behaviour_logprob,
            trusted.behaviour_logprob,
            owned,
            0.0,
            2 * TOLERANCE,
        ),
    ]
    for name, mine, theirs, of, relative, absolute in compared:
        difference = _difference(name, mine, theirs, of, relative, absolute)
        if difference is not None:
            return difference
    return None


def _difference(
    name: str, own: Tensor, right: Tensor, of: Tensor, relative: float, absolute: float
) -> str | None:
    """Where [B, ...] of two steps lie further apart than they may, among the rows `of` [B]."""
    if own.shape != right.shape:
        return f"{name}: shape {tuple(own.shape)} where torch has {tuple(right.shape)}"
    mine, theirs = (x.double().reshape(len(x), -1) for x in (own, right))
    near = (mine - theirs).abs() <= absolute + relative * theirs.abs()
    # Infinities differ by no number; NaN is equal to nothing.
    wrong = of[:, None] & ~(near | (mine == theirs))
    if not bool(wrong.any()):
        return None
    row, place = (int(i) for i in wrong.nonzero()[0])
    count = int(wrong.any(1).sum())
    return (
        f"{name} differs in {count} of {len(of)} rows: {mine[row, place].item():.6g} where torch "
        f"has {theirs[row, place].item():.6g} in row {row}"
    )
