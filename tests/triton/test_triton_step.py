"""The kernels against the float64 oracle: probabilities, decisions, tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import Case, Request, assert_same_row, exact_case, random_case
from test_kernel_step import SMALLEST, assert_matches_reference
from torch import Tensor
from triton_cases import DEVICE, prepared, triton_step

from led_sglang.kernels import CannotServe, Gate, LedLimits, LmHeadShard

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


# 257 and 1009 are prime: no tile divides them, 1009 takes two splits and eight column tiles. 40 and
# 72 are below and above one tile of the hidden size, and multiples of neither.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "hidden"), [(257, 72), (1009, 40)])
def test_mixed_batch_matches_reference(vocab: int, hidden: int, dtype: torch.dtype) -> None:
    case = random_case(vocab + hidden, vocab=vocab, hidden=hidden, dtype=dtype, batch=5)
    assert_matches_reference(case, triton_step(case))


@pytest.mark.parametrize("depth", [1, 2, 8, 16])
@pytest.mark.parametrize("candidates", [1, 8, 20, 64])
@pytest.mark.parametrize("temperature", [0.05, 0.6, 2.0])
def test_every_size_matches_reference(temperature: float, candidates: int, depth: int) -> None:
    request = Request(temperature=temperature, candidates=candidates, depth=depth, gate=Gate.ALWAYS)
    requests = [
        replace(request, release_layers=True, floor=1e-6),
        replace(request, candidate_top_p=0.8, gate=Gate.CONFIDENCE, projects=True),
    ]
    case = random_case(depth, vocab=257, hidden=40, dtype=torch.bfloat16, requests=requests)
    assert_matches_reference(case, triton_step(case))


@pytest.mark.parametrize("explorers", [0, 1, 6])
def test_none_one_and_all_rows_exploring(explorers: int) -> None:
    requests = [Request(gate=Gate.NEVER, candidates=20)] * 6
    requests[:explorers] = [replace(requests[0], gate=Gate.ALWAYS)] * explorers
    requests.reverse()
    case = random_case(5, vocab=257, hidden=72, requests=requests)
    result = triton_step(case)
    assert int(result.explored.sum()) == explorers
    assert_matches_reference(case, result)


@pytest.mark.parametrize(
    ("logit_scale", "softcap"), [(None, 5.0), (0.25, None), (2.0, 3.0)], ids=str
)
def test_logit_scale_then_softcap(logit_scale: float | None, softcap: float | None) -> None:
    case = random_case(3, vocab=257, hidden=40, batch=3, logit_scale=logit_scale, softcap=softcap)
    assert_matches_reference(case, triton_step(case))


def hard_case() -> Case:
    """Masked candidates, fewer than k left, ties, all-negative logits, p1 = 1, half masked."""
    requests = [Request(candidates=20, depth=4, projects=True, floor=1e-6)] * 5
    case = random_case(2, vocab=1009, hidden=40, requests=requests)
    masked = torch.randperm(1009, generator=torch.Generator().manual_seed(0))[:1002]
    case.logits[0, masked] = -torch.inf
    case.logits[1] = case.logits[1].round()
    case.logits[2] -= 1000.0
    case.logits[3, 100] = 90.0
    case.logits[4, ::2] = -torch.inf
    return case


def test_hard_logits_match_reference() -> None:
    case = hard_case()
    assert case.reference(3).p1 == 1.0
    assert len(case.reference(0).candidate_ids) == 7
    assert_matches_reference(case, triton_step(case))


def test_all_negative_latent_logits() -> None:
    """The padded columns of the last tile would win if they counted as 0."""
    case = random_case(1, vocab=257, hidden=40, requests=[Request(gate=Gate.ALWAYS)] * 2)
    case = replace(case, weight=-case.weight.abs() - 1.0, latents=case.latents.abs() * 0.1)
    assert float((case.weight @ case.latents[0, 0]).max()) < -1.0
    assert_matches_reference(case, triton_step(case))


def test_nothing_possible_picks_candidate_zero() -> None:
    requests = [Request(gate=g, gate_value=1.0, floor=1e-6, projects=True) for g in Gate]
    requests += [replace(r, greedy=True, temperature=1.0) for r in requests]
    case = random_case(4, vocab=257, hidden=40, requests=requests)
    case.logits.fill_(-torch.inf)
    result = triton_step(case)
    assert result.token_ids.tolist() == [0] * len(requests)
    for value in (result.layer_probs, result.behaviour_probs, result.p1, result.entropy):
        assert value.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_latents_fall_back_to_the_final_layer(bad: float) -> None:
    case = random_case(6, vocab=257, hidden=40, requests=[Request(gate=Gate.ALWAYS, depth=4)] * 2)
    clean = triton_step(case)
    case.latents[0] = bad
    result = triton_step(case)
    assert result.depth[0] == 1
    assert result.token_ids[1] == clean.token_ids[1]
    assert torch.equal(result.layer_probs[1], clean.layer_probs[1])


def test_equal_latents_tie_to_the_nearest_layer() -> None:
    case = random_case(0, vocab=64, hidden=40, requests=[Request(gate=Gate.ALWAYS)])
    case.logits.zero_()
    case.latents.zero_()
    assert triton_step(case).depth.tolist() == [1]


def test_greedy_ties_pick_the_earlier_candidate() -> None:
    request = Request(temperature=1.0, greedy=True, depth=1, gate=Gate.NEVER)
    case = random_case(0, vocab=64, hidden=40, requests=[request])
    case.logits.fill_(-5.0)
    case.logits[0, [9, 21, 40]] = 1.5
    result = triton_step(case)
    assert result.token_ids.tolist() == [9]
    assert result.candidate_ids[0, :4].tolist() == [9, 21, 40, 0]


def test_signed_zeros_tie_to_the_lowest_id() -> None:
    request = Request(temperature=1.0, greedy=True, depth=1, gate=Gate.NEVER)
    case = random_case(0, vocab=64, hidden=40, requests=[request])
    case.logits.fill_(-5.0)
    case.logits[0, 7], case.logits[0, 30] = -0.0, 0.0
    assert triton_step(case).candidate_ids[0, :2].tolist() == [7, 30]


def test_row_alone_equals_row_in_batch_bit_for_bit() -> None:
    case = exact_case(8)
    case = replace(case, requests=[replace(r, gate=Gate.ALWAYS) for r in case.requests])
    together = triton_step(case)
    for row in range(len(case.requests)):
        assert_same_row(case, row, triton_step(case.only(row)), together)


def test_rows_sent_through_the_head_are_counted_on_the_device() -> None:
    case = exact_case(8)
    step = prepared(case)
    assert int(step.projected) == 0
    # The same rows as the torch path's, which the host counts.
    expected = 0
    for part in (case, case.only(0), case):
        triton_step(part, step)
        expected += part.step(name="torch").projected_rows or 0
        assert int(step.projected) == expected
    assert expected > 0


def test_several_windows_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows end within a request, and within and between the row tiles of one pass."""
    case = exact_case(4)
    case = replace(case, requests=[replace(r, gate=Gate.ALWAYS) for r in case.requests])
    step = prepared(case)
    one, window = triton_step(case, step), step.workspace.window
    live = sum(r.depth - 1 for r in case.requests if r.owns and r.thinks)
    assert live > 20 > window / 5
    monkeypatch.setattr("led_sglang.kernels.triton.workspace.WINDOW_ROWS", 20)
    step = prepared(case)
    several = triton_step(case, step)
    assert step.workspace.window == 20
    for row in range(len(case.requests)):
        assert_same_row(case, row, several, one, alone=row)


def test_every_row_tile_gives_the_same_bits() -> None:
    """One row, then many: each live count runs another row tile."""
    from led_sglang.kernels.triton.tiles import chip_of, row_tiles

    request = Request(gate=Gate.ALWAYS, depth=8)
    results = []
    # 7, 21, 42, 56, 91, 126, 175, 224, 273 live rows: a tile each, and two of the last
    for batch in (1, 3, 6, 8, 13, 18, 25, 32, 39):
        case = exact_case(3)
        requests = [request] * batch
        case = replace(
            case,
            requests=requests,
            logits=case.logits[:1].expand(batch, -1).contiguous(),
            latents=case.latents[:1, -8:].expand(batch, -1, -1).contiguous(),
            seeds=case.seeds[:1].expand(batch).contiguous(),
        )
        results.append(triton_step(case))
    live = [7 * len(r.token_ids) for r in results]
    tiles = row_tiles(torch.bfloat16, chip_of(torch.device(DEVICE)).card)
    assert tiles[:7] == (16, 32, 48, 64, 96, 128, 192)
    assert {sum(tile < count for tile in tiles) for count in live} == set(range(len(tiles) + 1))
    for result in results:
        for name in ("layer_probs", "behaviour_probs", "token_ids", "depth"):
            value = getattr(result, name)
            expected = getattr(results[0], name)[:1].expand_as(value)
            assert torch.equal(value, expected), (name, len(value))


def test_a_small_batch_after_a_large_one_sees_nothing_of_it() -> None:
    large = random_case(7, vocab=257, hidden=40, batch=4, dtype=torch.bfloat16)
    small = random_case(9, vocab=257, hidden=40, batch=2, dtype=torch.bfloat16)
    most = replace(large.launch_limits(), candidates=64, depth=16)
    step = prepared(replace(large, weight=small.weight), limits=most)
    triton_step(replace(large, weight=small.weight), step)
    assert_matches_reference(small, triton_step(small, step))


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(65, 1200),
    hidden=st.integers(1, 20).map(lambda n: 8 * n),
    batch=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape_matches_reference(
    seed: int, vocab: int, hidden: int, batch: int, dtype: torch.dtype
) -> None:
    case = random_case(seed, vocab=vocab, hidden=hidden, batch=batch, dtype=dtype)
    assert_matches_reference(case, triton_step(case))


def test_fewer_columns_than_candidates() -> None:
    case = random_case(3, vocab=13, hidden=40, requests=[Request(candidates=20, gate=Gate.ALWAYS)])
    assert_matches_reference(case, triton_step(case))


def test_what_the_kernels_cannot_hold_is_refused() -> None:
    case = random_case(0, vocab=257, hidden=40, requests=[Request(depth=4)])
    for part, refusal in (
        (replace(case, weight=case.weight.double()), "the LM head is torch.float64; the kernels"),
        (replace(case, weight=case.weight.bfloat16()), "latents are torch.float32 and would be"),
    ):
        with pytest.raises(CannotServe, match=refusal):
            prepared(part)
    with pytest.raises(CannotServe, match="candidates is 65; the kernels hold 1 to 64"):
        prepared(case, limits=replace(case.launch_limits(), candidates=65))
    with pytest.raises(CannotServe, match="no plain weight"):
        prepared(case, head=LmHeadShard(None, 0, 257, project=lambda x: x))
    with pytest.raises(ValueError, match="2 latent layers are too few for depth 4"):
        triton_step(replace(case, latents=case.latents[:, :2]))
    with pytest.raises(ValueError, match="20 wide where the LM head takes 40"):
        triton_step(replace(case, latents=case.latents[:, :, :20]))


def test_one_gather_of_a_fixed_shape_whatever_the_gates_say() -> None:
    for gate in (Gate.NEVER, Gate.ALWAYS):
        requests = [Request(gate=gate, depth=4), Request(gate=gate, depth=6, candidates=20)]
        case = random_case(3, vocab=257, hidden=40, requests=requests)
        sent: list[Tensor] = []

        def gather(x: Tensor, sent: list[Tensor] = sent) -> Tensor:
            sent.append(x.cpu().clone())
            return x[None]

        triton_step(case, all_gather=gather, limits=LedLimits(20, 6, False, False))
        assert [(x.shape, x.dtype) for x in sent] == [((2 * 5, 22), torch.float32)]
        live = [gate == Gate.ALWAYS] * 3 + [False] * 2 + [gate == Gate.ALWAYS] * 5
        assert (sent[0][:, 1] > 0).tolist() == live
        # Rows that are not listed are sent as they are, and read by nobody.
        assert sent[0][~torch.tensor(live)].isnan().all()


def test_budget_is_meaningful() -> None:
    """The comparison above fails for a wrong probability."""
    case = random_case(3, vocab=257, hidden=40, requests=[Request(gate=Gate.ALWAYS)])
    result = triton_step(case)
    assert float(result.layer_probs[0, 1].max()) > SMALLEST
    result.layer_probs[0, 1] *= 1.0 + 1e-4
    with pytest.raises(AssertionError):
        assert_matches_reference(case, result)
