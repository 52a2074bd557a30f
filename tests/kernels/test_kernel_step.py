"""led_step against the float64 oracle: probabilities, decisions, tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import (
    Case,
    Request,
    assert_same_row,
    exact_case,
    expected_decision,
    random_case,
    rows_of,
    step_for,
)

from led_sglang.kernels import Gate, LedLimits, LedResult, LmHeadShard
from led_sglang.kernels.eager import step as eager_step

pytestmark = pytest.mark.usefixtures("each_path")

# docs/method.md#numerics. Below the smallest normal fp32 the result cannot carry a relative error.
BUDGET = 1e-5
SMALLEST = 1e-37


def assert_matches_reference(case: Case, result: LedResult) -> None:
    noise = case.noise(case.final())
    for row, request in enumerate(case.requests):
        reference = case.reference(row)
        k, d = len(reference.candidate_ids), request.depth
        explored, depth, token = expected_decision(
            reference, request, noise.gate[row].item(), noise.pick[row]
        )
        assert result.candidate_ids[row, :k].tolist() == reference.candidate_ids
        assert bool(result.explored[row]) == explored, row
        assert result.depth[row] == depth, (row, reference.entropies)
        assert result.token_ids[row] == token, row
        torch.testing.assert_close(result.p1[row].item(), reference.p1, rtol=BUDGET, atol=0)
        torch.testing.assert_close(
            result.entropy[row].item(), reference.entropy, rtol=BUDGET, atol=2e-6
        )

        may_explore = request.owns and request.thinks
        probability = reference.explore_probability if may_explore else 0.0
        if request.greedy and not request.random_gate:
            probability = float(probability > 0.5)
        # p1 is fp32: 1 - p1 errs by its last bit
        assert abs(result.explore_probability[row].item() - probability) <= 1e-6
        projected = explored or (may_explore and request.projects)
        known = result.layer_probs[row].double()
        live = d if projected else 1
        if projected or not request.normalize_layers:
            torch.testing.assert_close(
                known[:live, :k], reference.layer_probs[:live], rtol=BUDGET, atol=SMALLEST
            )
        assert known[live:].count_nonzero() == 0
        assert known[:, k:].count_nonzero() == 0

        q = reference.behaviour_probs
        if not may_explore:
            q = reference.exploit_probs
            if request.greedy:
                q = torch.nn.functional.one_hot(q.argmax(), k).double()
        elif not projected and reference.explore_probability > 0.0 and d > 1:
            # The row exploited by chance: the other half of q was never computed.
            certain = request.greedy and not request.random_gate
            q = q if certain else torch.zeros(k, dtype=torch.float64)
        torch.testing.assert_close(
            result.behaviour_probs[row, :k].double(), q, rtol=3 * BUDGET, atol=1e-7
        )
        assert result.behaviour_probs[row, k:].count_nonzero() == 0
        torch.testing.assert_close(
            result.behaviour_logprob[row].exp().item(),
            q[reference.candidate_ids.index(token)].item(),
            rtol=3 * BUDGET,
            atol=1e-7,
        )


# 257 and 1009 are prime: no chunk or tile divides them. 33 is no multiple of a vector width.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("vocab", "hidden"), [(257, 33), (1009, 64)])
@pytest.mark.parametrize("seed", range(4))
def test_mixed_batch_matches_reference(
    seed: int, vocab: int, hidden: int, dtype: torch.dtype
) -> None:
    case = random_case(seed, vocab=vocab, hidden=hidden, dtype=dtype)
    assert_matches_reference(case, case.step())


@pytest.mark.parametrize("depth", [1, 2, 8, 16])
@pytest.mark.parametrize("candidates", [1, 8, 20, 64])
@pytest.mark.parametrize("temperature", [0.05, 0.6, 2.0])
def test_every_size_matches_reference(temperature: float, candidates: int, depth: int) -> None:
    request = Request(temperature=temperature, candidates=candidates, depth=depth, gate=Gate.ALWAYS)
    variants = [
        request,
        replace(request, release_layers=True, floor=1e-6),
        replace(request, normalize_layers=True, final_norm=True),
        replace(request, candidate_top_p=0.8, gate=Gate.CONFIDENCE, projects=True),
    ]
    case = random_case(depth, vocab=257, hidden=33, requests=variants)
    assert_matches_reference(case, case.step())


@pytest.mark.parametrize(
    ("logit_scale", "softcap"), [(None, 5.0), (0.25, None), (2.0, 3.0)], ids=str
)
def test_logit_scale_then_softcap(logit_scale: float | None, softcap: float | None) -> None:
    case = random_case(3, vocab=257, hidden=33, logit_scale=logit_scale, softcap=softcap)
    assert_matches_reference(case, case.step())


def test_projecting_head_equals_weight() -> None:
    case = random_case(5, vocab=257, hidden=33, logit_scale=0.5, softcap=4.0)
    padded = torch.cat([case.weight, torch.full((7, 33), torch.nan)])
    head = LmHeadShard(None, 0, 257, 0.5, 4.0, project=lambda x: x @ padded.t())
    assert_matches_reference(case, case.step(head=head))


def test_hard_logits_match_reference() -> None:
    """Masked candidates, fewer than k left, ties, all-negative logits, p1 rounding to 1."""
    requests = [Request(candidates=20, depth=8, projects=True, floor=1e-6)] * 5
    case = random_case(2, vocab=257, hidden=33, requests=requests)
    case.logits[
        0, torch.randperm(257, generator=torch.Generator().manual_seed(0))[:250]
    ] = -torch.inf
    case.logits[1] = case.logits[1].round()
    case.logits[2] -= 1000.0
    case.logits[3, 100] = 90.0
    case.logits[4, ::2] = -torch.inf
    assert case.reference(3).p1 == 1.0
    assert len(case.reference(0).candidate_ids) == 7
    assert_matches_reference(case, case.step())


def test_exploring_can_stop_at_the_final_layer() -> None:
    """One candidate: every a^l is (1), all entropies tie at 0, and the final layer is nearest."""
    requests = [Request(candidates=1, depth=8, gate=Gate.ALWAYS), Request(gate=Gate.NEVER)]
    case = random_case(1, vocab=257, hidden=33, requests=requests)
    result = case.step()
    assert result.explored.tolist() == [True, False]
    assert result.depth[0] == 1
    assert result.token_ids[0] == case.logits[0].argmax()


def test_equal_latents_tie_to_the_nearest_layer() -> None:
    """A flat final layer has the largest entropy there is; flat latents only match it."""
    case = random_case(0, vocab=64, hidden=33, requests=[Request(gate=Gate.ALWAYS)])
    case.logits.zero_()
    case.latents.zero_()
    assert case.step().depth.tolist() == [1]


def test_greedy_ties_pick_the_earlier_candidate() -> None:
    request = Request(temperature=1.0, greedy=True, depth=1, gate=Gate.NEVER)
    case = random_case(0, vocab=64, hidden=33, requests=[request])
    case.logits.fill_(-5.0)
    case.logits[0, [9, 21, 40]] = 1.5
    result = case.step()
    assert result.token_ids.tolist() == [9]
    assert result.candidate_ids[0, :4].tolist() == [9, 21, 40, 0]


def test_row_with_nothing_possible_picks_candidate_zero() -> None:
    requests = [Request(gate=g, gate_value=1.0, floor=1e-6, projects=True) for g in Gate]
    requests += [replace(r, greedy=True, temperature=1.0) for r in requests]
    case = random_case(4, vocab=257, hidden=33, requests=requests)
    case.logits.fill_(-torch.inf)
    result = case.step()
    assert result.token_ids.tolist() == [0] * len(requests)
    for value in (result.layer_probs, result.behaviour_probs, result.p1, result.entropy):
        assert value.isfinite().all()


def test_nan_latents_fall_back_to_the_final_layer() -> None:
    requests = [Request(gate=Gate.ALWAYS, depth=4)] * 2
    case = random_case(6, vocab=257, hidden=33, requests=requests)
    clean = case.step()
    case.latents[0] = torch.nan
    result = case.step()
    noise = case.noise(case.final())
    exploit = torch.softmax(case.final().logprobs[0].double(), 0)
    best = (exploit.log() + noise.pick[0]).argmax()
    assert result.token_ids[0] == result.candidate_ids[0, best]
    assert result.depth[0] == 1
    assert result.token_ids[1] == clean.token_ids[1]


def test_row_alone_equals_row_in_batch() -> None:
    case = random_case(8, vocab=1009, hidden=64, dtype=torch.bfloat16, batch=16)
    together = case.step()
    for row, request in enumerate(case.requests):
        alone = case.only(row).step()
        k, d = request.candidates, request.depth
        for name in ("token_ids", "explored", "depth", "p1", "entropy"):
            assert getattr(alone, name)[0] == getattr(together, name)[row], name
        assert torch.equal(alone.candidate_ids[0], together.candidate_ids[row, :k])
        torch.testing.assert_close(
            alone.layer_probs[0], together.layer_probs[row, :d, :k], rtol=3e-6, atol=SMALLEST
        )


@pytest.mark.parametrize("static", [False, True])
def test_row_alone_equals_row_in_batch_bit_for_bit(
    static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With products that are exact in fp32: a matrix product's own rounding may depend on how many
    rows it has, nothing else may."""
    if static:
        monkeypatch.setattr(eager_step, "_rows_to_project", lambda live: torch.arange(live.numel()))
    case = exact_case(8)
    together = case.step()
    for row in range(len(case.requests)):
        assert_same_row(case, row, case.only(row).step(), together)


def test_only_rows_that_need_it_are_projected() -> None:
    always, never = Request(gate=Gate.ALWAYS, depth=5), Request(gate=Gate.NEVER, depth=8)
    requests = [
        always,
        never,
        replace(always, thinks=False, projects=True),
        replace(always, owns=False, projects=True),
        replace(never, depth=3, projects=True),
        replace(always, depth=1),
    ]
    result = random_case(0, vocab=257, hidden=33, requests=requests).step()
    assert result.projected_rows == (5 - 1) + (3 - 1)
    assert result.explored.tolist() == [True, False, False, False, False, True]


def test_no_projection_work_when_nobody_explores() -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the LM head was called")

    requests = [Request(gate=Gate.NEVER, final_norm=True)] * 3
    case = random_case(0, vocab=257, hidden=33, requests=requests)
    head = LmHeadShard(None, 0, 257, project=refuse)
    assert case.step(head=head, final_norm=refuse).projected_rows == 0


def test_greedy_gate_explores_only_above_one_half() -> None:
    request = Request(temperature=1.0, greedy=True, gate=Gate.RATE)
    requests = [replace(request, gate_value=value) for value in (0.25, 0.5, 0.75)]
    result = random_case(0, vocab=257, hidden=33, requests=requests).step()
    assert result.explored.tolist() == [False, False, True]


def test_entropy_gate_explores_only_above_its_threshold() -> None:
    case = random_case(0, vocab=257, hidden=33, requests=[Request(gate=Gate.ENTROPY)] * 3)
    case.logits[1:] = case.logits[0]
    entropy = case.final().entropy[0].item()
    requests = [replace(case.requests[0], gate_value=entropy + x) for x in (-0.01, 0.0, 0.01)]
    assert replace(case, requests=requests).step().explored.tolist() == [True, False, False]


def test_q_is_zero_where_one_half_of_it_was_never_computed() -> None:
    requests = [Request(depth=3, gate=Gate.RATE, gate_value=0.5)] * 8
    result = random_case(0, vocab=257, hidden=33, requests=requests).step()
    assert set(result.explored.tolist()) == {False, True}
    torch.testing.assert_close(result.behaviour_probs.sum(1), result.explored.float())
    assert torch.equal(result.behaviour_logprob == -torch.inf, ~result.explored)


def test_depth_one_knows_q_without_projecting() -> None:
    requests = [Request(depth=1, gate=Gate.RATE, gate_value=0.5)] * 8 + [Request(depth=3)]
    case = random_case(0, vocab=257, hidden=33, requests=requests)
    result = case.step()
    assert set(result.explored[:8].tolist()) == {False, True}
    for row in range(8):
        torch.testing.assert_close(
            result.behaviour_probs[row].double(),
            case.reference(row).exploit_probs,
            rtol=BUDGET,
            atol=1e-8,
        )


@pytest.mark.parametrize("seed", range(3))
def test_static_shapes_of_cuda_give_the_same_result(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = random_case(seed, vocab=257, hidden=33)
    compact = case.step(name="torch")
    monkeypatch.setattr(eager_step, "_rows_to_project", lambda live: torch.arange(live.numel()))
    sent: list[torch.Tensor] = []

    def gather(x: torch.Tensor) -> torch.Tensor:
        sent.append(x)
        return x[None]

    static = case.step(all_gather=gather, name="torch")
    assert static.projected_rows > compact.projected_rows
    assert int((sent[0][:, 1] > 0).sum()) == compact.projected_rows
    for name in ("token_ids", "explored", "depth", "behaviour_logprob"):
        torch.testing.assert_close(getattr(static, name), getattr(compact, name))
    torch.testing.assert_close(static.layer_probs, compact.layer_probs, rtol=3e-6, atol=SMALLEST)


def test_shallow_release_row_beside_a_deep_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """With static shapes its unused layers point past the captured ones; nobody may look there."""
    monkeypatch.setattr(eager_step, "_rows_to_project", lambda live: torch.arange(live.numel()))
    requests = [
        Request(depth=5, gate=Gate.ALWAYS),
        Request(depth=4, gate=Gate.ALWAYS, release_layers=True),
    ]
    case = random_case(1, vocab=257, hidden=33, requests=requests)
    case = replace(case, latents=case.latents[:, -4:])
    assert_matches_reference(case, case.step(name="torch"))


def test_inputs_it_cannot_serve_are_refused() -> None:
    case = random_case(0, vocab=64, hidden=33, requests=[Request(depth=4)])
    final, rows = case.final(), rows_of(case.requests)
    noise, step = case.noise(final), step_for(case)
    with pytest.raises(ValueError, match="2 latent layers are too few for depth 4"):
        step.led_step(final, case.latents[:, :2], rows, LedLimits(8, 4, False, False), noise)
    with pytest.raises(ValueError, match="final_norm"):
        step.led_step(final, case.latents, rows, LedLimits(8, 4, True, False), noise)
    limits = LedLimits(8, 4, False, False)
    for latents in (case.latents[:, :, :11], torch.cat([case.latents] * 2, dim=2)):
        with pytest.raises(
            ValueError, match=rf"{latents.shape[2]} wide where the LM head takes 33"
        ):
            step.led_step(final, latents, rows, limits, noise)


def test_depth_one_needs_no_latents() -> None:
    case = random_case(0, vocab=64, hidden=33, requests=[Request(depth=1, gate=Gate.ALWAYS)])
    case = replace(case, latents=case.latents[:, :0])
    assert_matches_reference(case, case.step())
