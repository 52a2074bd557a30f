"""Tensor parallelism, simulated by threads: every rank decides the same, as one rank would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kernel_cases import Case, Request, random_case
from kernel_ranks import Ranks
from torch import Tensor

from led_sglang.kernels import Gate, LedResult, LmHeadShard

pytestmark = pytest.mark.usefixtures("each_path")

V, H = 257, 33
SPLITS = {
    "two": [0, 129, V],
    "four ragged": [0, 100, 150, 256, V],
    "four, one empty": [0, 100, 100, 200, V],
}


def run_ranks(case: Case, bounds: list[int], padding: int = 5) -> tuple[list[LedResult], Ranks]:
    world = len(bounds) - 1
    ranks = Ranks(world)

    def run(rank: int) -> LedResult:
        start, end = bounds[rank], bounds[rank + 1]
        weight = torch.cat([case.weight[start:end], torch.full((padding, H), torch.nan)])
        head = LmHeadShard(weight, start, end - start, case.logit_scale, case.softcap)
        return case.step(head=head, all_gather=ranks.all_gather(rank))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, range(world))), ranks


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_agree_with_each_other_and_with_one(seed: int, split: str) -> None:
    case = random_case(seed, vocab=V, hidden=H, softcap=20.0)
    one = case.step()
    results, _ = run_ranks(case, SPLITS[split])
    for rank, result in enumerate(results):
        for name, value in vars(result).items():
            if isinstance(value, Tensor):
                assert torch.equal(value, getattr(results[0], name)), (rank, name)
    assert torch.equal(results[0].token_ids, one.token_ids)
    assert torch.equal(results[0].depth, one.depth)
    torch.testing.assert_close(results[0].layer_probs, one.layer_probs, rtol=5e-6, atol=1e-37)


@pytest.mark.parametrize("gate", [Gate.NEVER, Gate.ALWAYS, Gate.CONFIDENCE])
def test_one_gather_of_a_fixed_shape_whatever_the_gates_say(gate: Gate) -> None:
    requests = [Request(gate=gate, depth=4), Request(gate=gate, depth=6, candidates=20)]
    case = random_case(3, vocab=V, hidden=H, requests=requests)
    _, ranks = run_ranks(case, SPLITS["two"])
    for sent in ranks.sent:
        assert [(x.shape, x.dtype) for x in sent] == [((2 * 5, 22), torch.float32)]
        if gate == Gate.NEVER:
            nothing = torch.tensor([-torch.inf] + [0.0] * 21)
            assert torch.equal(sent[0], nothing.expand(10, 22))
        if gate == Gate.ALWAYS:
            live = [True] * 3 + [False] * 2 + [True] * 5
            assert (sent[0][:, 1] > 0).tolist() == live


def test_depth_one_gathers_nothing() -> None:
    requests = [Request(gate=Gate.ALWAYS, depth=1)] * 2
    case = random_case(3, vocab=V, hidden=H, requests=requests)
    _, ranks = run_ranks(case, SPLITS["two"])
    assert ranks.sent == [[], []]
