"""Who computes LED's steps on this server, decided once at launch: kernels, or plain torch."""

from __future__ import annotations

import logging
from typing import Any

import torch
from led_sglang.kernels import (
    LedLimits,
    LmHeadShard,
    device_reason,
    prewarm,
    withdraw,
)

from led_sglang import cpu_kernels
from led_sglang.params import MAX_CANDIDATES
from led_sglang.settings import ServerSettings

logger = logging.getLogger(__name__)

# SGLang hands the sampler fp32 logits, whatever the model computes in.
_LOGITS = (torch.float32,)

_served_by = "not decided yet"


def served_by() -> str:
    """`triton`, `cpu`, or `torch: ` and the reason; what `/server_info` shows of this process."""
    return _served_by


class RankGather:
    """The step's one collective: [M, n] of every rank, in rank order, into memory kept for it."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._ranks = torch.distributed.get_world_size(group)
        self._memory: torch.Tensor | None = None

    def __call__(self, local: torch.Tensor) -> torch.Tensor:
        size = self._ranks * local.numel()
        if self._memory is None or self._memory.numel() < size:
            self._memory = local.new_empty(size)
        gathered = self._memory[:size].view(self._ranks, *local.shape)
        torch.distributed.all_gather_into_tensor(
            gathered.view(-1, local.shape[1]), local, group=self._group
        )
        return gathered


def choose(head: LmHeadShard, runner: Any, settings: ServerSettings, group: Any) -> str | None:
    """Compile the kernels and allocate their memory, or settle for torch and say why.

    On a CPU the kernels are the step that Numba compiles, unless Triton's interpreter is on.

    Args:
        head: this rank's LM head.
        runner: SGLang's model runner, its pools sized.
        settings: the server's.
        group: ranks that sample the same rows; all of them take the same path, or they would
            round differently and drift apart.

    Returns:
        None where kernels serve, else the reason for torch, which is logged as well.
    """
    device = torch.device(runner.device)
    kernels = "triton" if device.type != "cpu" or device_reason(device) is None else "cpu"
    if kernels == "cpu":
        reason = cpu_kernels.prewarm()
    else:
        reason = prewarm(
            head,
            batch=runner.req_to_token_pool.req_to_token.shape[0],
            limits=LedLimits(MAX_CANDIDATES, settings.depth, final_norm=True, entropy=True),
            vocab=runner.model_config.vocab_size,
            captured=len(settings.captured),
            latents_dtype=runner.dtype,
            logits_dtypes=_LOGITS,
        )
    if not _on_every_rank(reason is None, device, group) and reason is None:
        withdraw(head)
        cpu_kernels.withdraw()
        reason = "another rank cannot run the kernels, and all ranks must take the same path"
    global _served_by
    _served_by = kernels if reason is None else f"torch: {reason}"
    if reason is None:
        logger.info("LED steps run in the %s kernels.", kernels)
    elif device.type == "cpu":
        logger.warning("LED steps run in torch: %s.", reason)
    else:
        logger.warning(
            "LED steps fall back to torch, which sends every row of the batch through the LM head, "
            "exploring or not: %s.",
            reason,
        )
    return reason


def _on_every_rank(ready: bool, device: torch.device, group: Any) -> bool:
    if torch.distributed.get_world_size(group) == 1:
        return ready
    all_ready = torch.tensor([ready], dtype=torch.int32, device=device)
    torch.distributed.all_reduce(all_ready, torch.distributed.ReduceOp.MIN, group=group)
    return bool(all_ready)
