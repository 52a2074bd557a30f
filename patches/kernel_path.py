"""Who computes LED's steps on this server, decided once at launch: kernels, or plain torch."""

from __future__ import annotations

import logging
from typing import Any

import torch

from led_sglang.kernels import AllGather, FinalNorm, LaunchLimits, LmHeadShard, Step, prepare
from led_sglang.methods.led.params import MAX_CANDIDATES
from led_sglang.settings import ServerSettings

logger = logging.getLogger(__name__)

# SGLang hands the sampler fp32 logits, whatever the model computes in.
_LOGITS = (torch.float32,)


def choose(
    head: LmHeadShard,
    runner: Any,
    settings: ServerSettings,
    group: Any,
    *,
    final_norm: FinalNorm,
    all_gather: AllGather | None,
) -> Step:
    """The step that serves on this rank; the choice, and why torch serves, is logged.

    Args:
        runner: SGLang's model runner, its pools sized.
        group: `GroupCoordinator` of the ranks that sample the same rows; all of them take the same
            path, or they would round differently and drift apart.
        final_norm, all_gather: see `led_sglang.kernels.prepare`.
    """
    device = torch.device(runner.device)
    step = prepare(
        head,
        LaunchLimits(
            batch=runner.req_to_token_pool.req_to_token.shape[0],
            candidates=MAX_CANDIDATES,
            depth=settings.depth,
            vocab=runner.model_config.vocab_size,
            captured=len(settings.captured),
            latents_dtype=runner.dtype,
            logits_dtypes=_LOGITS,
        ),
        device=device,
        final_norm=final_norm,
        all_gather=all_gather,
        on_every_rank=lambda ready: all(group.all_gather_object(ready)),
    )
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
