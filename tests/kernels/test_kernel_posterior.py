"""final_posterior: candidates, their exact order, statistics over the whole vocabulary."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernel_cases import Request, limits_of, random_case, rows_of, step_for
from torch.utils._python_dispatch import TorchDispatchMode

from led_sglang.kernels import FinalPosterior
from led_sglang.kernels.eager import posterior as eager_posterior

pytestmark = pytest.mark.usefixtures("each_path")


def final_posterior(*arguments) -> FinalPosterior:  # type: ignore[no-untyped-def]
    case = random_case(0, vocab=8, hidden=8, requests=[Request()])
    return step_for(case).final_posterior(*arguments)


def posterior(logits: torch.Tensor, *requests: Request) -> FinalPosterior:
    listed = list(requests)
    return final_posterior(logits, rows_of(listed), limits_of(listed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.05, 0.6, 2.0])
def test_statistics_match_float64(temperature: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(5, 1009, generator=generator) * 4 * temperature).to(dtype)
    before = logits.clone()
    r = posterior(logits, *[Request(temperature=temperature, candidates=20)] * 5)
    exact = logits.double() / torch.tensor(temperature).double()
    log_p = exact.log_softmax(1)
    torch.testing.assert_close(r.logprobs.double(), log_p.gather(1, r.ids), rtol=0, atol=1e-5 / 2)
    torch.testing.assert_close(r.p1.double(), log_p.exp().amax(1), rtol=1e-6, atol=0)
    entropy = -(log_p.exp() * log_p).sum(1)
    torch.testing.assert_close(r.entropy.double(), entropy, rtol=1e-5, atol=1e-6)
    assert torch.equal(logits, before)


def test_ties_go_to_the_lowest_id() -> None:
    generator = torch.Generator().manual_seed(1)
    # Few distinct values over many columns, and both zeros.
    logits = torch.randint(-3, 3, (6, 1009), generator=generator).float() / 2
    logits[:, ::3] *= -1
    logits[3] = 0.0
    logits[3, ::2] = -0.0
    logits[4] = -7.25
    logits[5, 5:] = -math.inf
    r = posterior(logits, *[Request(candidates=64)] * 6)
    for row in range(6):
        order = sorted(range(1009), key=lambda v: (-logits[row, v].item(), v))
        assert r.ids[row].tolist() == order[:64]


def test_slots_beyond_the_row_are_no_candidates() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log().expand(5, 5).clone()
    logits[4, [0, 3]] = -math.inf
    request = Request(temperature=1.0, candidates=5)
    r = posterior(
        logits,
        request,
        replace(request, candidates=2),
        replace(request, candidate_top_p=0.7),
        replace(request, candidate_top_p=0.01),
        request,
    )
    assert (r.logprobs > -math.inf).sum(1).tolist() == [5, 2, 2, 1, 3]
    # Not renormalised over the kept ones.
    torch.testing.assert_close(r.logprobs[2, :2].exp(), torch.tensor([0.5, 0.25]))


def test_full_nucleus_keeps_candidates_when_p1_rounds_to_one() -> None:
    logits = torch.zeros(1, 50)
    logits[0, 7] = 80.0
    r = posterior(logits, Request(temperature=1.0))
    assert r.p1.item() == 1.0
    assert r.logprobs.isfinite().all()


def test_row_with_nothing_possible_has_no_candidates() -> None:
    logits = torch.stack([torch.full((50,), -math.inf), torch.zeros(50)])
    r = posterior(logits, *[Request(temperature=1.0)] * 2)
    assert (r.logprobs[0] == -math.inf).all()
    assert (r.p1[0].item(), r.entropy[0].item()) == (1.0, 0.0)
    assert r.ids[0].tolist() == list(range(8))
    assert r.entropy[1].item() == pytest.approx(math.log(50))


def test_no_more_candidates_than_vocabulary() -> None:
    assert posterior(torch.randn(2, 5), *[Request(candidates=64)] * 2).ids.shape == (2, 5)


def test_entropy_only_when_wanted() -> None:
    case = random_case(0, vocab=257, hidden=8)
    limits = limits_of(case.requests)
    rows = rows_of(case.requests)
    assert final_posterior(case.logits, rows, limits).entropy.min() > 0
    without = final_posterior(case.logits, rows, replace(limits, entropy=False))
    assert without.entropy.count_nonzero() == 0


def test_empty_batch() -> None:
    case = random_case(0, vocab=257, hidden=8)
    part = rows_of(case.requests)
    empty = replace(part, **{name: getattr(part, name)[:0] for name in vars(part)})
    assert final_posterior(case.logits[:0], empty, limits_of(case.requests)).p1.shape == (0,)


class LargestOutput(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns, views of inputs left out."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for t in out if isinstance(out, tuple | list) else [out]:
                if isinstance(t, torch.Tensor):
                    self.largest = max(self.largest, t.numel() * t.element_size())
        return out


def test_row_chunks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(2, vocab=1009, hidden=8, batch=13)
    whole = case.final()
    budget = 3 * 1009 * eager_posterior._BYTES_PER_LOGIT
    monkeypatch.setattr(eager_posterior, "_TEMPORARY_BYTES", budget)
    with LargestOutput() as seen:
        chunked = final_posterior(case.logits, rows_of(case.requests), limits_of(case.requests))
    for name in ("ids", "logprobs", "p1", "entropy"):
        assert torch.equal(getattr(chunked, name), getattr(whole, name)), name
    assert seen.largest <= budget
