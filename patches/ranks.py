"""What the ranks of one server tell each other, all of it through SGLang's own groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.runtime_context import get_parallel
from torch import Tensor

from led_sglang._version import __version__
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.settings import LaunchRefused, ServerSettings

_UNTIL_ALL_HAVE_READ = timedelta(seconds=10)
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
    "logprobs": "--led-logprobs",
    "version": "the version of led-sglang",
    "self_check": "--led-self-check",
    "truncation_check": "--led-truncation-check",
    "unproven": "--led-unproven-architecture",
    "stage_start": "--pp-size or SGLANG_PP_LAYER_PARTITION",
}


def sampling_group() -> Any:
    """SGLang's `GroupCoordinator` of the ranks that sample the same rows."""
    parallel = get_parallel()
    return parallel.attn_tp_group if is_dp_attention_enabled() else parallel.tp_group


def on_every_rank(group: Any) -> Callable[[bool], bool]:
    """Whether a flag is true on every rank of a `GroupCoordinator`, each of which calls it."""
    return lambda flag: all(group.all_gather_object(flag))


@hook("model_executor.model_runner.ModelRunner.init_torch_distributed", "AROUND")
def _compare_nodes(original: Any, self: Any) -> None:
    """SGLang reduces a number over all ranks in here, before it loads the model: behind it every
    rank has announced its settings, or decodes plainly and never will."""
    settings = settings_or_none()
    if settings is None or self.is_draft_worker or dist.get_world_size() == 1:
        original(self)
        return
    announce(settings)
    original(self)
    with ending_with_a_sentence():
        refuse_other_settings(get_parallel().nnodes)


def announce(settings: ServerSettings) -> None:
    """Put this rank's settings where the others find them: the store that SGLang's groups meet in.

    A collective would not do, since a rank without LED takes no part in it and all would wait.
    """
    _store().set(_key(dist.get_rank()), json.dumps(described(settings)))


def described(settings: ServerSettings) -> dict[str, Any]:
    """Settings as JSON: another version's can be read as well."""
    known: dict[str, Any] = json.loads(json.dumps({"version": __version__, **asdict(settings)}))
    return known


def refuse_other_settings(nodes: int) -> None:
    """Check that all ranks have been started alike: each node resolves flags of its own.

    Ranks that differ would wait for each other for ever. Every rank with LED calls it, behind a
    collective of all ranks that follows `announce`, and all of them raise.

    Args:
        nodes: that the ranks are on, the same number on each, in order.

    Raises:
        LaunchRefused: a rank has other settings, or decodes without LED; the message names the
            flags, or the nodes.
    """
    store, world = _store(), dist.get_world_size()
    with_led = [rank for rank in range(world) if store.check([_key(rank)])]
    settings = {rank: json.loads(store.get(_key(rank))) for rank in with_led}
    if nodes > 1:
        places = {rank: f"node {rank * nodes // world}" for rank in range(world)}
    else:
        places = {rank: f"rank {rank}" for rank in range(world)}
    problem = _plain_places(with_led, places)
    if not problem and (differing := other_settings(settings, places)):
        problem = (
            f"the nodes of this server have different LED settings: {differing}; start every node "
            "with the same flags and the same model"
        )
    if not problem:
        return
    # One of them keeps the store and would end it.
    store.set(f"{_key(dist.get_rank())}/read", "")
    with suppress(RuntimeError):
        store.wait([f"{_key(rank)}/read" for rank in with_led], _UNTIL_ALL_HAVE_READ)
    raise LaunchRefused(problem)


def _store() -> Any:
    return dist.PrefixStore("led-sglang", dist.distributed_c10d._get_default_store())


def _key(rank: int) -> str:
    return f"settings of rank {rank}"


def _plain_places(with_led: Sequence[int], places: Mapping[int, str]) -> str:
    plain = dict.fromkeys(place for rank, place in places.items() if rank not in with_led)
    if not plain:
        return ""
    led = dict.fromkeys(places[rank] for rank in with_led)
    return (
        f"{', '.join(plain)} of this server decodes without LED, and {', '.join(led)} with it; "
        "start every node with `led-sglang serve` and the same flags, and see that none of them "
        "sets SGLANG_PLUGINS"
    )


def other_settings(settings: Mapping[int, Mapping[str, Any]], places: Mapping[int, str]) -> str:
    """What the first of them differs in from another one, by flag; empty where all are alike.

    Args:
        settings: see `described`.
        places: where each of them holds.
    """
    first = settings[0]
    for number, other in settings.items():
        names = [name for name in {**first, **other} if other.get(name) != first.get(name)]
        if not names:
            continue
        differing = [
            f"{_FLAGS[name]} ({first.get(name)} on {places[0]}, {other.get(name)} on "
            f"{places[number]})"
            for name in names
            if name in _FLAGS
        ]
        return ", ".join(differing) or f"the files of the model ({', '.join(names)})"
    return ""


class RankGather:
    """The step's one collective: [M, n] of every rank, in rank order, into memory kept for it.

    Args:
        group: SGLang's `GroupCoordinator`, whose all-gather is the one its own layers use.

    Attributes:
        before: called first, while a check runs in which a rank may fail.
    """

    def __init__(self, group: Any) -> None:
        self.before: Callable[[], None] | None = None
        self._group = group
        self._memory: Tensor | None = None

    def __call__(self, local: Tensor) -> Tensor:
        if self.before is not None:
            self.before()
        ranks = self._group.world_size
        size = ranks * local.numel()
        if self._memory is None or self._memory.numel() < size:
            self._memory = local.new_empty(size)
        gathered = self._memory[:size].view(ranks, *local.shape)
        # The public one is an operator that hides this from torch.compile, on some devices alone.
        self._group._all_gather_into_tensor(gathered.view(-1, local.shape[1]), local)
        return gathered
