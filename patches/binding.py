"""What the sampling step needs of the loaded model and its ranks, taken once after loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from led_sglang.kernels import FinalNorm, LmHeadShard, NoiseStream, Step
from led_sglang.patches.batch_state import PhaseTracker
from led_sglang.patches.kernel_path import RankGather, choose
from led_sglang.patches.lm_head import final_norm, lm_head_shard
from sglang.srt.runtime_context import get_device, get_parallel
from torch import Tensor

from led_sglang.phase import ThinkAutomaton
from led_sglang.randomness import noise_stream
from led_sglang.samplers import ModelView
from led_sglang.settings import LaunchRefused, ServerSettings


@dataclass(frozen=True)
class Binding:
    """The loaded model as the methods see it, on this rank.

    model: the parts of it that a method may call.
    step: who computes LED's steps.
    place_of: [layers + 1] int64: where h^l lies among the captured streams.
    think_end: [n] int64 ids of the delimiter; empty without a think phase.
    tracker: the think phase by request slot; None without a think phase.
    noise: the server's own stream of noise.
    """

    model: ModelView
    step: Step
    place_of: Tensor
    think_end: Tensor
    tracker: PhaseTracker | None
    noise: NoiseStream


def bind(
    model_runner: Any, settings: ServerSettings, automaton: ThinkAutomaton | None, group: Any
) -> Binding:
    """Take what a step needs from the loaded model, and choose its kernels.

    Args:
        model_runner: SGLang's, its model loaded and its pools sized.
        settings: the server's.
        automaton: of its delimiters.
        group: ranks that sample the same rows.

    Raises:
        LaunchRefused: the model lacks a part LED needs.
    """
    device = torch.device(model_runner.device)
    head, norm = _head_and_norm(model_runner.model)
    gather = RankGather(group) if torch.distributed.get_world_size(group) > 1 else None
    place_of = torch.zeros(settings.num_layers + 1, dtype=torch.int64)
    for place, layer in enumerate(settings.captured):
        place_of[layer] = place
    step = choose(head, model_runner, settings, group, final_norm=norm, all_gather=gather)
    tracker = None
    if automaton is not None:
        tracker = PhaseTracker(
            automaton,
            model_runner.req_to_token_pool.req_to_token.shape[0],
            model_runner.model_config.vocab_size,
            device,
        )
    return Binding(
        model=ModelView(head, gather, _shard_widths(head, gather, device)),
        step=step,
        place_of=place_of.to(device),
        think_end=torch.tensor(settings.think_end_ids, dtype=torch.int64).to(device),
        tracker=tracker,
        noise=_noise_stream(device, group),
    )


def _head_and_norm(model: Any) -> tuple[LmHeadShard, FinalNorm]:
    try:
        return lm_head_shard(model), final_norm(model)
    except AttributeError as error:
        raise LaunchRefused(
            f"LED cannot use the LM head of {type(model).__name__} ({error}); serve another "
            "model, or start without LED (--sampler regular)"
        ) from None


def _shard_widths(
    head: LmHeadShard, gather: RankGather | None, device: torch.device
) -> tuple[int, ...]:
    # fp32 like all that ranks exchange; exact for any vocabulary
    width = torch.tensor([[float(head.valid)]], device=device)
    widths = gather(width) if gather is not None else width
    return tuple(int(w) for w in widths.flatten().tolist())


def _noise_stream(device: torch.device, group: Any) -> NoiseStream:
    # Ranks on other machines resolved a seed of their own: the first rank's counts.
    seed = torch.tensor([get_device().random_seed], dtype=torch.int64, device=device)
    if torch.distributed.get_world_size(group) > 1:
        torch.distributed.broadcast(seed, group=group, group_src=0)
    parallel = get_parallel()
    # Replicas (--dp) count in dp_rank, groups of attention data parallelism in attn_dp_rank.
    replica = parallel.attn_dp_rank + (parallel.dp_rank or 0)
    return noise_stream(int(seed), replica, device)
