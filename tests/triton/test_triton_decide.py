"""A whole step in kernels against its parts in torch: think phase, summary, take-over."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from kernel_cases import Case, limits_of, random_case, rms_norm, rows_of
from torch import Tensor
from triton_cases import DEVICE, moved, prepared

from led_sglang.kernels import (
    Decided,
    Draws,
    EagerStep,
    LedRows,
    NoiseStream,
    Step,
    ThinkPhase,
)
from led_sglang.kernels.types import SUMMARY
from led_sglang.phase import KEEP, ThinkAutomaton

V, B, SLOTS = 257, 6, 16
AUTOMATON = ThinkAutomaton([3, 4], [5], tool_start=[6, 7])
TABLES = moved(AUTOMATON.device_tables(V, "cpu"), DEVICE)


def case_of(seed: int) -> Case:
    case = random_case(seed, vocab=V, hidden=40, dtype=torch.bfloat16, batch=B)
    return replace(case, logits=case.logits.float())


def phase_of(seed: int, *, begins: bool) -> ThinkPhase:
    """Rows in every state of the automaton, those that begin and those that go on."""
    rng = random.Random(seed)
    draw = [rng.randrange(AUTOMATON.num_states) for _ in range(SLOTS)]
    start = [rng.choice([KEEP, rng.randrange(AUTOMATON.num_states)]) for _ in range(B)]
    return ThinkPhase(
        TABLES,
        torch.tensor(draw, device=DEVICE),
        torch.tensor(rng.sample(range(SLOTS), B), device=DEVICE),
        torch.tensor(start, device=DEVICE) if begins else None,
    )


def take(
    step: Step, case: Case, rows: LedRows, phase: ThinkPhase | None, engine: Tensor
) -> tuple[Decided, Tensor, Tensor]:
    """What a step decides, the tokens it leaves and its stream."""
    stream = NoiseStream.start(11, DEVICE)
    seeds = case.seeds.to(DEVICE)
    draws = Draws(stream, seeds, seeds % 2 == 0, seeds + 3)
    arguments = (case.logits.to(DEVICE), case.latents.to(DEVICE), rows, limits_of(case.requests))
    decided = step.decide(*arguments, draws, phase)
    token_ids = engine.clone()
    step.settle(token_ids, decided, phase)
    assert step.reason is None
    return decided, token_ids, stream.step


# SGLang's backends give token ids of either type.
@pytest.mark.parametrize(
    ("phased", "dtype"),
    [("begins", torch.int64), ("goes on", torch.int32), ("untracked", torch.int32)],
)
def test_kernels_decide_and_settle_as_torch(phased: str, dtype: torch.dtype) -> None:
    seed = 1
    case = case_of(seed)
    rows = moved(rows_of(case.requests), DEVICE)
    # One row thinks whatever its phase, one is LED's whatever it is, one is not LED's at all.
    place = torch.arange(B, device=DEVICE)
    rows = replace(rows, thinks=place == 0, random_gate=place == 1, owns=place != 2)
    # Tokens of delimiters, one outside the vocabulary, and others.
    engine = torch.tensor([5, 3, 4, V + 9, 7, 100], dtype=dtype, device=DEVICE)
    eager = EagerStep(moved(case.head(), DEVICE), final_norm=rms_norm)
    results, states = [], []
    for step in (prepared(case), eager):
        phase = None if phased == "untracked" else phase_of(seed, begins=phased == "begins")
        results.append(take(step, case, rows, phase, engine))
        states.append(None if phase is None else phase.states)
    (ours, our_tokens, our_stream), (theirs, tokens, stream) = results
    assert torch.equal(ours.owned, theirs.owned)
    assert ours.owned[:3].tolist() == [True, True, False]
    assert not ours.owned[3:].all() or phased == "untracked"
    assert torch.equal(our_tokens, tokens)
    assert our_tokens.dtype == dtype
    assert int(our_stream) == int(stream) == 1
    exact = [SUMMARY.index(n) for n in ("is_led", "thinks", "explored", "depth", "phase")]
    assert torch.equal(ours.summary[:, exact], theirs.summary[:, exact])
    torch.testing.assert_close(ours.summary, theirs.summary, rtol=1e-4, atol=1e-5)
    if phased != "untracked":
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], phase_of(seed, begins=False).states)


def test_tokens_that_ranks_agreed_on_move_the_phase_and_stay() -> None:
    case = case_of(2)
    rows = moved(rows_of(case.requests), DEVICE)
    step, phase = prepared(case), phase_of(2, begins=False)
    before = phase.states[phase.slots]
    decided, token_ids, _ = take(step, case, rows, phase, torch.zeros(B, dtype=torch.int64))
    agreed = torch.full_like(token_ids, 5)
    step.settle(agreed, decided, phase, takes=False)
    assert (agreed == 5).all()
    assert torch.equal(phase.states[phase.slots], TABLES.advance(before, agreed))


def test_a_summary_outlives_the_next_step() -> None:
    case, other = case_of(0), case_of(1)
    step = prepared(case, limits=replace(case.launch_limits(), candidates=64, depth=16))
    phase = phase_of(0, begins=False)
    engine = torch.zeros(B, dtype=torch.int64, device=DEVICE)
    first, _, _ = take(step, case, moved(rows_of(case.requests), DEVICE), phase, engine)
    kept = first.summary.clone()
    other = replace(other, weight=case.weight)
    later, _, _ = take(step, other, moved(rows_of(other.requests), DEVICE), phase, engine)
    assert torch.equal(first.summary, kept)
    assert not torch.equal(later.summary, kept)
