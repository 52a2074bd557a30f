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

from .step import Step
from .synthetic import SyntheticBatch
from .types import FinalPosterior, Gate, LedResult, NoiseStream, StepNoise

_T = TypeVar("_T")

# How far probabilities of two steps may lie apart, relative (docs/method.md#numerics).
TOLERANCE = 4e-3
# Below it entropies (nats), scores (nats) and gate draws count as a near tie.
TIE = 1e-2
_SEED = 0x1ED


class RanksApart(RuntimeError):
    """Another rank of a check failed, and says why itself."""


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


class RanksTogether:
    """Has all ranks of a check reach every collective together, or none of them.

    Where one rank raises before a collective, the others would wait in it for ever. So they ask
    each other before each: whoever calls one calls `arrive` first.

    Args:
        on_every_rank: whether a flag is true on every rank; None without other ranks.
    """

    def __init__(self, on_every_rank: Callable[[bool], bool] | None = None) -> None:
        self._on_every_rank = on_every_rank
        self._apart = False

    def run(self, function: Callable[[], _T]) -> _T:
        """Call what may raise on this rank alone; every rank calls it."""
        self._apart = False
        try:
            return function()
        finally:
            # Those that are in `arrive` hear of it: this rank reaches no further collective.
            if self._on_every_rank is not None and not self._apart:
                self._on_every_rank(False)

    def arrive(self) -> None:
        """Wait for the other ranks.

        Raises:
            RanksApart: one of them does not come, here or earlier.
        """
        if self._on_every_rank is not None:
            self._apart = self._apart or not self._on_every_rank(True)
        if self._apart:
            raise RanksApart("another rank failed")


def compare(step: Step, trusted: Step, batch: SyntheticBatch) -> Comparison:
    """Run one batch through both steps; what either raises is a finding.

    Args:
        step: judged.
        trusted: its numbers decide what is right: plain torch.
        batch: equal on every rank.

    Raises:
        RanksApart: an all-gather of either raised it.
    """
    count, outcomes = len(batch.logits), []
    for whose, one in (("torch", trusted), ("it", step)):
        try:
            outcomes.append(_run(one, batch))
        except RanksApart:
            raise
        except Exception as error:  # compilers, drivers and allocators each raise their own
            lines = str(error).splitlines() or [""]
            return Comparison(f"{whose} raised {type(error).__name__}: {lines[0]}", count, 0)
    if step.reason is not None:
        return Comparison(f"it leaves the batch to torch: {step.reason}", count, 0)
    right, judged = outcomes
    firm = _firm_rows(right, batch)
    finding = _first_difference(judged, right, batch, firm)
    return Comparison(finding, count, int(firm.token.sum()))


@dataclass(frozen=True)
class _Outcome:
    """All that one step made of the batch."""

    final: FinalPosterior
    noise: StepNoise
    result: LedResult
    stream: NoiseStream


def _run(step: Step, batch: SyntheticBatch) -> _Outcome:
    stream = NoiseStream.start(_SEED, batch.logits.device)
    final = step.final_posterior(batch.logits, batch.rows, batch.limits)
    noise = step.draw_noise(stream, batch.seeds, batch.has_seed, batch.positions, final.ids)
    result = step.led_step(final, batch.latents, batch.rows, batch.limits, noise)
    return _Outcome(final, noise, result, stream)


@dataclass(frozen=True)
class _Firm:
    """[B] bool each: rows in which something hangs by more than `TIE`, by the trusted numbers."""

    gate: Tensor  # candidates and gate
    token: Tensor  # and the layer and the token of the side that is taken
    q: Tensor  # and l*, whichever side is taken


def _firm_rows(right: _Outcome, batch: SyntheticBatch) -> _Firm:
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
    gate = ~(at_the_edge | threshold | torch.where(likelier, half, draw & ~certain))

    p = result.layer_probs.double()
    c = p.cumsum(1)
    a = c / c.sum(2, keepdim=True).clamp(min=1e-300)
    entropy = -torch.special.xlogy(a, a).sum(2)
    # A layer that adds nothing is no rival of the nearer one.
    entropy = entropy.masked_fill(p.sum(2) == 0.0, -torch.inf)
    entropy[:, 0] = torch.nan_to_num(entropy[:, 0], neginf=0.0)
    star = entropy.argmax(1)
    layer = _gap(entropy) >= TIE
    noise = torch.where(rows.greedy[:, None], 0.0, right.noise.pick)
    exploit = _gap(a[:, 0].log() + noise) >= TIE
    mixed = a[torch.arange(len(a), device=a.device), star]
    explore = layer & (_gap(mixed.log() + noise) >= TIE)
    token = gate & torch.where(result.explored, explore, exploit)
    # A greedy row's q holds the likeliest token of either side.
    return _Firm(gate, token, token & layer & (~rows.greedy | (exploit & explore)))


def _gap(values: Tensor) -> Tensor:
    """[B] between the largest and the second of [B, n]; inf where there is no second."""
    if values.shape[1] < 2:
        return torch.full_like(values[:, 0], torch.inf)
    top = values.topk(2, dim=1).values
    return torch.where(top[:, 1] == -torch.inf, torch.inf, top[:, 0] - top[:, 1])


def _first_difference(
    own: _Outcome, right: _Outcome, batch: SyntheticBatch, firm: _Firm
) -> str | None:
    """One clause on the first number of a step that is not the trusted one's, or None."""
    ids, logprobs = right.final.ids, right.final.logprobs
    result, trusted = own.result, right.result
    everywhere = torch.ones_like(firm.gate)
    owned, known = firm.token & batch.rows.owns, firm.q & batch.rows.owns
    # Beyond a row's own candidates ids mean nothing.
    slots = logprobs > -torch.inf
    compared: list[tuple[str, Tensor, Tensor, Tensor, float, float]] = [
        ("candidates", own.final.ids * slots, ids * slots, firm.gate, 0.0, 0.0),
        ("log p of the final layer", own.final.logprobs, logprobs, firm.gate, 0.0, TOLERANCE),
        ("p1", own.final.p1, right.final.p1, everywhere, TOLERANCE, 0.0),
        ("entropy", own.final.entropy, right.final.entropy, everywhere, TOLERANCE, TOLERANCE),
        ("gate's noise", own.noise.gate, right.noise.gate, everywhere, 1e-9, 1e-9),
        ("tokens' noise", own.noise.pick * slots, right.noise.pick * slots, firm.gate, 1e-9, 1e-9),
        ("noise stream", own.stream.step, right.stream.step, everywhere[:1], 0.0, 0.0),
        (
            "probability to explore",
            result.explore_probability,
            trusted.explore_probability,
            firm.gate,
            0.0,
            TOLERANCE,
        ),
        ("explored", result.explored, trusted.explored, firm.gate, 0.0, 0.0),
        # Below the smallest normal fp32 there is no relative error to speak of.
        ("p of the layers", result.layer_probs, trusted.layer_probs, firm.gate, TOLERANCE, 1e-37),
        ("depth", result.depth, trusted.depth, firm.token, 0.0, 0.0),
        ("token", result.token_ids, trusted.token_ids, owned, 0.0, 0.0),
        ("q", result.behaviour_probs, trusted.behaviour_probs, known, TOLERANCE, TOLERANCE),
        (
            "log q of the token",
            result.behaviour_logprob,
            trusted.behaviour_logprob,
            known,
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
