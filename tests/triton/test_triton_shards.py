"""Tensor parallelism over gloo: 2 and 4 processes decide as one shard does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from kernel_cases import Case, Request, random_case
from led_sglang.kernels import Gate, LmHeadShard
from torch import Tensor
from triton_cases import DEVICE, triton_step

V, H = 257, 40
PADDING = 5
SEEDS = (0,)

# Bounds of the shards; one is empty, none is a multiple of a tile.
SPLITS = {
    2: {"even": [0, 129, V], "ragged": [0, 200, V]},
    4: {"ragged": [0, 100, 150, 256, V], "one empty": [0, 100, 100, 200, V]},
}

REQUESTS = [
    Request(gate=Gate.ALWAYS, depth=4),
    Request(gate=Gate.CONFIDENCE, depth=3, candidates=20, temperature=2.0, release_layers=True),
    Request(gate=Gate.NEVER, projects=True, depth=4, temperature=0.05),
    Request(gate=Gate.NEVER, depth=2, final_norm=True),
    Request(gate=Gate.ALWAYS, depth=3, greedy=True, temperature=1.0, final_norm=True),
]


def case_of(seed: int) -> Case:
    return random_case(
        seed, vocab=V, hidden=H, dtype=torch.bfloat16, requests=REQUESTS, softcap=20.0
    )


def _rank(rank: int, world: int, folder: str, path: list[str]) -> None:
    sys.path[:] = path
    import conftest  # noqa: F401  the interpreter's speed-up

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    calls = 0

    def all_gather(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        gathered = x.new_empty(world, *x.shape)
        dist.all_gather_into_tensor(gathered.view(-1, x.shape[1]), x)
        return gathered

    results = {}
    for name, bounds in SPLITS[world].items():
        for seed in SEEDS:
            case = case_of(seed)
            start, end = bounds[rank], bounds[rank + 1]
            padding = torch.full((PADDING, H), torch.nan, dtype=torch.bfloat16)
            head = LmHeadShard(
                torch.cat([case.weight[start:end], padding]),
                start,
                end - start,
                case.logit_scale,
                case.softcap,
            )
            calls = 0
            result = triton_step(case, head=head, all_gather=all_gather)
            assert calls == 1
            results[name, seed] = {n: v for n, v in vars(result).items() if v is not None}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(DEVICE != "cpu", reason="gloo ranks share no GPU")
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_each_other_and_with_one(world: int, tmp_path: Path) -> None:
    mp.spawn(_rank, (world, str(tmp_path), list(sys.path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for key in ranks[0]:
        for other in ranks[1:]:
            for name, value in ranks[0][key].items():
                assert torch.equal(value, other[key][name]), (key, name)
        one = vars(triton_step(case_of(key[1])))
        ours = ranks[0][key]
        for name in ("token_ids", "depth", "explored"):
            assert torch.equal(ours[name], one[name]), (key, name)
        torch.testing.assert_close(ours["layer_probs"], one["layer_probs"], rtol=5e-6, atol=1e-37)
        assert int(one["explored"].sum()) > 0
