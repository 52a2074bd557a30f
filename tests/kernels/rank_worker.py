"""One of two ranks with SGLang's own group over gloo; spawned processes import it by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from sglang.srt.distributed.parallel_state import (
    init_distributed_environment,
    init_model_parallel_group,
)

from led_sglang._version import __version__
from led_sglang.patches import ranks
from led_sglang.patches.ranks import RankGather, announce, refuse_other_settings
from led_sglang.settings import LaunchRefused, ServerSettings

WORLD = 2
SHAPES = ((5, 10), (2, 4), (7, 66))
SETTINGS = ServerSettings(
    sampler="led",
    enabled=("led", "regular"),
    depth=8,
    candidates=8,
    layers="paper",
    think_only=True,
    architecture="Qwen3ForCausalLM",
    num_layers=12,
    latent_layers=(11, 10, 9, 8, 7, 6, 5),
    dola_layers=(),
    tied_embeddings=True,
    preset="default",
    think_start="<think>",
    think_end="</think>",
    think_start_ids=(1,),
    think_end_ids=(2,),
    boundary_ids=(),
)
# What rank 1 has otherwise.
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "depth": {"depth": 4, "latent_layers": (11, 10, 9)},
    "methods": {"enabled": ("led", "dola", "regular"), "dola_layers": (2, 4)},
    "delimiter": {"think_end": "[/THINK]", "think_end_ids": (9,)},
    "model": {"num_layers": 16},
    "version": {},
}
# Where rank 1 decodes without LED.
PLAIN = "plain"


def part(rank: int, shape: tuple[int, int]) -> torch.Tensor:
    """What a rank sends."""
    return torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape) + 1000 * rank


def tell(rank: int, folder: str) -> None:
    """Gather tensors and compare settings; what came of it goes to `folder`."""
    torch.set_num_threads(1)
    init_distributed_environment(WORLD, rank, f"file://{folder}/store", rank, "gloo")
    group = init_model_parallel_group(
        [list(range(WORLD))], rank, "gloo", use_pynccl=False, use_custom_allreduce=False
    )
    refused = {}
    for name in (PLAIN, *CHANGES):
        if rank == 0 or name != PLAIN:
            ranks.__version__ = "0.0" if (rank, name) == (1, "version") else __version__
            announce(replace(SETTINGS, **(CHANGES[name] if rank == 1 else {})))
        group.barrier()
        refused[name] = ""
        if rank == 0 or name != PLAIN:
            try:
                refuse_other_settings(nodes=2 if name == "delimiter" else 1)
            except LaunchRefused as refusal:
                refused[name] = str(refusal)
        group.barrier()
    calls = []
    own = group._all_gather_into_tensor
    group._all_gather_into_tensor = lambda out, x: (calls.append(x.shape), own(out, x))[1]
    gather = RankGather(group)
    gathered = [gather(part(rank, shape)).clone() for shape in SHAPES]
    torch.save((refused, gathered, len(calls)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
