"""A step is one categorical draw from q: chi-square over 20,000 draws of one request."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import Request, limits_of, random_case, rows_of, step_for
from scipy import stats
from torch import Tensor

from led_sglang.kernels import (
    Gate,
    LedResult,
    NoiseStream,
    StepNoise,
    seeded_noise,
)

pytestmark = pytest.mark.usefixtures("each_path")

DRAWS = 20_000
SEED = 23  # its gate is undecided, and its two sides have different argmaxes; see the last test

REQUESTS = {
    "confidence": Request(depth=4),
    "always": Request(depth=4, gate=Gate.ALWAYS),
    "never": Request(depth=4, gate=Gate.NEVER),
    "entropy above": Request(depth=4, gate=Gate.ENTROPY, gate_value=0.1),
    "entropy below": Request(depth=4, gate=Gate.ENTROPY, gate_value=9.0),
    "rate": Request(depth=4, gate=Gate.RATE, gate_value=0.3),
    "release": Request(depth=3, release_layers=True, floor=1e-6),
    "release greedy": Request(
        depth=3, release_layers=True, temperature=1.0, greedy=True, random_gate=True
    ),
    "k = 20, nucleus": Request(depth=4, candidates=20, candidate_top_p=0.85),
    "answering": Request(depth=4, gate=Gate.ALWAYS, thinks=False),
}


def draw(request: Request, noise_of: str) -> tuple[LedResult, Tensor, float]:
    """20,000 draws of one request, q [k], and the probability to explore, both from the oracle."""
    case = random_case(SEED, vocab=61, hidden=16, requests=[replace(request, projects=True)])
    reference = case.reference(0)
    many = [case.requests[0]] * DRAWS
    rows, limits = rows_of(many), limits_of(many)
    step = step_for(case)
    final = step.final_posterior(case.logits.expand(DRAWS, -1), rows, limits)
    noise: StepNoise
    if noise_of == "seeds":
        seeds = torch.arange(DRAWS)
        noise = seeded_noise(seeds, torch.full_like(seeds, 3), final.ids)
    elif noise_of == "positions":
        positions = torch.arange(DRAWS)
        noise = seeded_noise(torch.full_like(positions, -5), positions, final.ids)
    else:
        zeros = torch.zeros(DRAWS, dtype=torch.int64)
        stream = NoiseStream.start(9, "cpu")
        noise = step.draw_noise(stream, zeros, zeros.bool(), zeros, final.ids)
    result = step.led_step(final, case.latents.expand(DRAWS, -1, -1), rows, limits, noise)
    if not request.thinks:
        return result, reference.exploit_probs, 0.0
    return result, reference.behaviour_probs, reference.explore_probability


@pytest.mark.parametrize("noise_of", ["seeds", "positions", "stream"])
@pytest.mark.parametrize("name", REQUESTS)
def test_tokens_are_drawn_from_q(name: str, noise_of: str) -> None:
    result, q, explore_probability = draw(REQUESTS[name], noise_of)
    k = len(q)
    slots = (result.candidate_ids == result.token_ids[:, None]).int().argmax(1)
    counts = torch.bincount(slots, minlength=k).double()
    assert counts[:k].sum() == DRAWS
    assert counts[:k][q == 0].sum() == 0
    # Chi-square wants about five expected draws a bin: rarer candidates share one.
    rare = q * DRAWS < 5
    observed = torch.cat([counts[:k][~rare], counts[:k][rare].sum()[None]])
    expected = torch.cat([q[~rare], q[rare].sum()[None]]) * DRAWS
    present = expected > 0
    if present.sum() > 1:
        test = stats.chisquare(
            observed[present].numpy(), expected[present].numpy(), sum_check=False
        )
        assert test.pvalue > 1e-3
    explored = int(result.explored.sum())
    assert stats.binomtest(explored, DRAWS, explore_probability).pvalue > 1e-3

    torch.testing.assert_close(result.behaviour_probs[0, :k].double(), q, rtol=1e-5, atol=1e-8)
    drawn = result.behaviour_logprob.double()
    torch.testing.assert_close(drawn, q.log()[slots], rtol=0, atol=2e-5)


def test_the_requests_tell_exploring_from_exploiting() -> None:
    """Otherwise the chi-square above would pass for a step that ignores the gate."""
    case = random_case(SEED, vocab=61, hidden=16, requests=[REQUESTS["confidence"]])
    reference = case.reference(0)
    assert 0.2 < reference.explore_probability < 0.8
    assert (reference.exploit_probs - reference.explore_probs).abs().sum() > 0.2
    greedy = random_case(SEED, vocab=61, hidden=16, requests=[REQUESTS["release greedy"]])
    assert 0.2 < greedy.reference(0).explore_probability < 0.8
    assert greedy.reference(0).behaviour_probs.count_nonzero() == 2
    nucleus = random_case(SEED, vocab=61, hidden=16, requests=[REQUESTS["k = 20, nucleus"]])
    assert 8 < len(nucleus.reference(0).candidate_ids) < 20
