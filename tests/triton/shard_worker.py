"""One rank of the tensor-parallel tests; spawned processes import it by name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
import torch.distributed as dist
from kernel_cases import Case, Request, random_case, rms_norm
from torch import Tensor
from triton_cases import triton_step

from led_sglang.doctor.device.interpreter import speed_up
from led_sglang.kernels import Gate, LmHeadShard
from led_sglang.patches import kernel_path

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


def decide(rank: int, world: int, folder: str) -> None:
    """Every case on this rank's shard; the results go to ``folder``."""
    speed_up()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    sent: list[torch.Size] = []

    def all_gather(x: Tensor) -> Tensor:
        sent.append(x.shape)
        everyone = [torch.empty_like(x) for _ in range(world)]
        dist.all_gather(everyone, x)
        return torch.stack(everyone)

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
            sent.clear()
            result = triton_step(case, head=head, all_gather=all_gather)
            assert len(sent) == 1
            results[name, seed] = {n: v for n, v in vars(result).items() if v is not None}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _all_gather_object(value: object) -> list[object]:
    everyone: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


# What `choose` reads of SGLang's model runner and of the server's settings.
RUNNER = SimpleNamespace(
    device="cpu",
    dtype=torch.bfloat16,
    spec_algorithm=SimpleNamespace(is_none=lambda: True),
    req_to_token_pool=SimpleNamespace(req_to_token=torch.empty(4, 0)),
    model_config=SimpleNamespace(vocab_size=V),
)
SETTINGS = SimpleNamespace(depth=4, captured=(3, 2, 1))


def choose(rank: int, world: int, folder: str) -> None:
    """What ranks settle for: with heads that all can serve, then with one that rank 1 cannot."""
    speed_up()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    group = SimpleNamespace(rank_in_group=rank, all_gather_object=_all_gather_object)
    head = case_of(0).head()
    strange = replace(head, weight=head.weight.double() if rank == 1 else head.weight)
    answers = []
    for each in (head, strange):
        step = kernel_path.choose(
            each, RUNNER, SETTINGS, group, final_norm=rms_norm, all_gather=None
        )
        answers.append((step.name, step.reason))
    torch.save(answers, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
