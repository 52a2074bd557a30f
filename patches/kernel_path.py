"""Who computes LED's steps on this server, decided once at launch: kernels, or plain torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from sglang.srt.runtime_context import get_spec

from led_sglang.kernels import AllGather, FinalNorm, LaunchLimits, LmHeadShard, Step, prepare
from led_sglang.kernels.step import ANOTHER_RANK
from led_sglang.methods.led.params import MAX_CANDIDATES
from led_sglang.patches.ranks import on_every_rank
from led_sglang.settings import ServerSettings

logger = logging.getLogger(__name__)

# SGLang hands the sampler fp32 logits, whatever the model computes in.
_LOGITS = (torch.float32,)


def launch_limits(runner: Any, settings: ServerSettings) -> LaunchLimits:
    """The largest step of a server, see `choose`."""
    # A request is a row, and under speculative decoding a row for each node of its draft.
    drafted = 1 if runner.spec_algorithm.is_none() else get_spec().speculative_num_draft_tokens
    return LaunchLimits(
        batch=runner.req_to_token_pool.req_to_token.shape[0] * drafted,
        candidates=MAX_CANDIDATES,
        depth=settings.depth,
        vocab=runner.model_config.vocab_size,
        captured=len(settings.captured),
        latents_dtype=runner.dtype,
        logits_dtypes=_LOGITS,
    )


def choose(
    head: LmHeadShard,
    runner: Any,
    settings: ServerSettings,
    group: Any,
    *,
    final_norm: FinalNorm,
    all_gather: AllGather | None,
) -> Step:
    """The step that serves on this rank; the first rank logs the choice, and why torch serves.

    Args:
        runner: SGLang's model runner, its pools sized.
        group: `GroupCoordinator` of the ranks that sample the same rows; all of them take the same
            path, or they would round differently and drift apart.
        final_norm, all_gather: see `led_sglang.kernels.prepare`.
    """
    device = torch.device(runner.device)
    with warnings.catch_warnings():
        # What failed is logged below, once.
        warnings.simplefilter("ignore", RuntimeWarning)
        step = prepare(
            head,
            launch_limits(runner, settings),
            device=device,
            final_norm=final_norm,
            all_gather=all_gather,
            on_every_rank=on_every_rank(group),
        )
    # Of several ranks the one that cannot run the kernels knows why.
    causes = [cause for cause in group.all_gather_object(step.reason) if cause]
    step.reason = next((c for c in causes if c != ANOTHER_RANK), step.reason)
    if group.rank_in_group > 0:
        return step
    if step.reason is None:
        logger.info("LED steps run in the %s kernels.", step.name)
    elif device.type == "cpu":
        logger.warning("LED steps run in torch: %s.", step.reason)
    else:
        logger.warning(
            "LED steps fall back to torch, which sends every row of the batch through the LM head, "
            "exploring or not: %s.",
            step.reason,
        )
    return step
