"""Tensor parallelism over gloo: 2 and 4 processes decide as one shard does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from shard_worker import case_of, choose, decide
from triton_cases import triton_step


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_each_other_and_with_one(world: int, tmp_path: Path) -> None:
    mp.spawn(decide, (world, str(tmp_path)), nprocs=world)
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


def test_ranks_take_the_same_path(tmp_path: Path) -> None:
    mp.spawn(choose, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first[0] == second[0] == ("triton", None)
    assert first[1] == second[1], "the rank that can says why the other cannot"
    name, reason = second[1]
    assert name == "torch"
    assert "torch.float64" in reason
