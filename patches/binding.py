"""What the sampling step needs of the loaded model and its ranks, taken once after loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.runtime_context import get_device, get_parallel

from led_sglang.kernels import FinalNorm, LmHeadShard, NoiseStream
from led_sglang.methods.base import LoadedModel
from led_sglang.patches.kernel_path import choose, launch_limits
from led_sglang.patches.lm_head import final_norm, lm_head_shard
from led_sglang.patches.published import pair_role
from led_sglang.patches.ranks import RankGather, sampling_group
from led_sglang.patches.self_check import CHECKS, Loaded, Report, self_check
from led_sglang.phase import PhaseTracker, ThinkAutomaton
from led_sglang.settings import LaunchRefused, ServerSettings

# Keeps the server's stream apart from a request's seed of the same number.
_STREAM = 0x1ED
# And the two servers of a pair from each other: the first step of both has the same number.
_ROLE_STREAMS = {"null": 0, "prefill": 1 << 9, "decode": 2 << 9}


@dataclass(frozen=True)
class Binding:
    """The loaded model on this rank.

    Attributes:
        model: what a method may use of it.
        hidden_size: H.
        tracker: the think phase by request slot; None without a think phase.
        checked: what the self-check found.
    """

    model: LoadedModel
    hidden_size: int
    tracker: PhaseTracker | None
    checked: Report


def bind(model_runner: Any, settings: ServerSettings, automaton: ThinkAutomaton | None) -> Binding:
    """Take what a step needs from the loaded model, and choose its kernels.

    Args:
        model_runner: SGLang's, its model loaded and its pools sized.

    Raises:
        LaunchRefused: the model lacks a part LED needs, or a strict self-check found something.
    """
    group = sampling_group()
    device = torch.device(model_runner.device)
    head, norm = _head_and_norm(model_runner.model)
    gather = RankGather(group) if group.world_size > 1 else None
    place_of = torch.zeros(settings.num_layers + 1, dtype=torch.int64)
    for place, layer in enumerate(settings.captured):
        place_of[layer] = place
    loaded = Loaded(
        model=model_runner.model,
        head=head,
        final_norm=norm,
        step=choose(head, model_runner, settings, group, final_norm=norm, all_gather=gather),
        limits=launch_limits(model_runner, settings),
        hidden_size=int(model_runner.model_config.hidden_size),
        gather=gather,
        group=group,
        device=device,
    )
    reads_head = settings.uses_led or settings.dola_layers
    loaded, checked = self_check(loaded, settings.self_check, CHECKS if reads_head else ())
    widths: tuple[int, ...] = (loaded.head.valid,)
    if loaded.gather is not None:
        widths = tuple(group.all_gather_object(loaded.head.valid))
    model = LoadedModel(
        head=loaded.head,
        step=loaded.step,
        all_gather=loaded.gather,
        shard_widths=widths,
        noise=_noise_stream(device, group),
        place_of=place_of.to(device),
        think_end=torch.tensor(settings.think_end_ids, dtype=torch.int64).to(device),
    )
    tracker = None
    if automaton is not None:
        tracker = PhaseTracker(
            automaton,
            model_runner.req_to_token_pool.req_to_token.shape[0],
            model_runner.model_config.vocab_size,
            device,
        )
    return Binding(model, loaded.hidden_size, tracker, checked)


def _head_and_norm(model: Any) -> tuple[LmHeadShard, FinalNorm]:
    try:
        return lm_head_shard(model), final_norm(model)
    except AttributeError as error:
        raise LaunchRefused(
            f"LED cannot use the LM head of {type(model).__name__} ({error}); serve another "
            "model, or start without LED (--sampler regular)"
        ) from None


def _noise_stream(device: torch.device, group: Any) -> NoiseStream:
    """The noise of requests without a seed (docs/method.md#randomness), equal on every rank."""
    # Ranks on other machines resolved a seed of their own: the first rank's counts.
    seed = group.all_gather_object(get_device().random_seed)[0]
    parallel = get_parallel()
    # Replicas (--dp) count in dp_rank, groups of attention data parallelism in attn_dp_rank.
    replica = parallel.attn_dp_rank + (parallel.dp_rank or 0)
    own = (replica << 12) + _ROLE_STREAMS[pair_role()] + _STREAM
    return NoiseStream.start((seed << 16) + own, device)
