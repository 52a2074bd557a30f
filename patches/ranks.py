"""What the ranks of one server tell each other, all of it through SGLang's own groups."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.runtime_context import get_parallel
from torch import Tensor

from led_sglang.settings import LaunchRefused, ServerSettings

# The flag behind each setting; the others follow from the model's files, or from these.
_FLAGS = {
    "sampler": "--sampler",
    "enabled": "--enable-samplers",
    "depth": "--led-depth",
    "candidates": "--led-candidates",
    "layers": "--led-layers",
    "think_only": "--led-think-only",
    "think_start": "--led-think-start",
    "think_end": "--led-think-end",
    "tool_start": "--led-tool-start",
    "dola_layers": "--dola-layers",
    "aliases": "--led-aliases",
}


def sampling_group() -> Any:
    """SGLang's `GroupCoordinator` of the ranks that sample the same rows."""
    parallel = get_parallel()
    return parallel.attn_tp_group if is_dp_attention_enabled() else parallel.tp_group


def refuse_other_settings(settings: ServerSettings, group: Any) -> None:
    """Check that all ranks have been started alike: each node resolves flags of its own.

    Ranks that differ would wait for each other for ever. Every rank calls it once, before anything
    that may fail on one rank alone, and all of them raise.

    Args:
        settings: of this rank.
        group: `GroupCoordinator` of all ranks that serve together.

    Raises:
        LaunchRefused: a rank has other settings; the message names the flags.
    """
    everyone: list[ServerSettings] = group.all_gather_object(settings)
    first = everyone[0]
    for rank, other in enumerate(everyone):
        if other == first:
            continue
        names = [f.name for f in fields(first) if getattr(other, f.name) != getattr(first, f.name)]
        differing = [
            f"{_FLAGS[name]} ({getattr(first, name)} on rank 0, {getattr(other, name)} on {rank})"
            for name in names
            if name in _FLAGS
        ]
        raise LaunchRefused(
            "the nodes of this server have different LED settings: "
            + (", ".join(differing) or f"the files of the model ({', '.join(names)})")
            + "; start every node with the same flags and the same model"
        )


class RankGather:
    """The step's one collective: [M, n] of every rank, in rank order, into memory kept for it.

    Args:
        group: SGLang's `GroupCoordinator`, whose all-gather is the one its own layers use.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._memory: Tensor | None = None

    def __call__(self, local: Tensor) -> Tensor:
        ranks = self._group.world_size
        size = ranks * local.numel()
        if self._memory is None or self._memory.numel() < size:
            self._memory = local.new_empty(size)
        gathered = self._memory[:size].view(ranks, *local.shape)
        # The public one is an operator that hides this from torch.compile, on some devices alone.
        self._group._all_gather_into_tensor(gathered.view(-1, local.shape[1]), local)
        return gathered
