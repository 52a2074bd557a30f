"""Two ranks over gloo: what they settle at launch, and the collective of a step."""

from __future__ import annotations

from typing import Any

import pytest
import rank_worker
import torch
import torch.multiprocessing as mp

# What is named of the settings that differ; the others follow from it.
NAMED = {
    "depth": "--led-depth (8 on rank 0, 4 on rank 1)",
    "methods": "--enable-samplers",
    "delimiter": "--led-think-end (</think> on node 0, [/THINK] on node 1)",
    "version": "the version of led-sglang",
    "model": "the files of the model (num_layers)",
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each rank saw, on the platform of a CPU server."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SGLANG_PLATFORM", "led_cpu")
        mp.spawn(rank_worker.tell, (str(folder),), nprocs=rank_worker.WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(rank_worker.WORLD)]


def test_other_settings_end_the_launch_on_every_rank(ranks: list[Any]) -> None:
    (first, _, _), (second, _, _) = ranks
    assert second.pop("plain") == ""
    assert first.pop("plain").startswith(
        "rank 1 of this server decodes without LED, and rank 0 with"
    )
    assert first == second, "a rank that goes on would wait for ever"
    assert first.pop("nothing") == ""
    assert set(first) == set(NAMED)
    for name, message in first.items():
        assert NAMED[name] in message
        assert message.endswith("start every node with the same flags and the same model")


def test_the_gather_is_the_groups_own_in_rank_order(ranks: list[Any]) -> None:
    for _, gathered, calls in ranks:
        assert calls == len(rank_worker.SHAPES)
        for shape, everyone in zip(rank_worker.SHAPES, gathered, strict=True):
            assert everyone.shape == (rank_worker.WORLD, *shape)
            for rank, theirs in enumerate(everyone):
                assert torch.equal(theirs, rank_worker.part(rank, shape))
