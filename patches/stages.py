"""Pipeline stages (`--pp-size`): the last one captures and samples, the first one answers.

docs/deployment.md#pipeline-stages tells users. Without pipeline parallelism the one stage is both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from sglang.srt.distributed.utils import get_pp_indices
from sglang.srt.model_loader.utils import get_model_architecture
from sglang.srt.runtime_context import get_parallel

from led_sglang.launch_layers import PARTITION_VARIABLE
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.settings import LaunchRefused

_Made = TypeVar("_Made")


def samples_here() -> bool:
    """Whether this process is of the last stage."""
    parallel = get_parallel()
    return bool(parallel.pp_size == 1 or parallel.pp_rank == parallel.pp_size - 1)


def answers_here() -> bool:
    """Whether this process sends the answers: the first rank of the first stage."""
    parallel = get_parallel()
    return bool((parallel.pp_size == 1 or parallel.pp_rank == 0) and parallel.attn_tp_rank == 0)


def stage_start(num_layers: int, stages: int) -> int:
    """The first layer of the last stage, 0-based: h^l is on it for every l from there on.

    Raises:
        LaunchRefused: the model cannot be divided so; names the variable that says how.
    """
    try:
        if num_layers < stages:
            raise ValueError(f"{stages} stages share {num_layers} layers")
        start, end = get_pp_indices(num_layers, stages - 1, stages)
        if start >= end:
            raise ValueError("the last stage has no layer")
    except ValueError as error:
        variable, given = PARTITION_VARIABLE, os.environ.get(PARTITION_VARIABLE)
        raise LaunchRefused(
            f"the {num_layers} layers of the model cannot be divided into --pp-size {stages} "
            f"pipeline stages ({error}); "
            + (
                f"choose fewer stages, {num_layers} at most"
                if given is None
                else f"{variable} is {given!r}: list the layers of each stage, or unset it"
            )
        ) from None
    return int(start)


def from_the_last_stage(make: Callable[[], _Made]) -> _Made:
    """What the last stage makes, on every stage; all of them call it.

    Args:
        make: called on the last stage alone; its result is pickled for the others.

    Raises:
        LaunchRefused: it raised one; every stage raises the same.
    """
    made: Any = None
    refusal = None
    if samples_here():
        try:
            made = make()
        except LaunchRefused as error:
            refusal = error
    parallel = get_parallel()
    if parallel.pp_size > 1:
        made, refusal = parallel.pp_group.all_gather_object((made, refusal))[-1]
    if refusal is not None:
        raise refusal
    result: _Made = made
    return result


@hook("model_executor.model_runner.ModelRunner.load_model", "BEFORE")
def _refuse_models_of_one_piece(self: Any) -> None:
    """SGLang asserts this, without a sentence, once the model is loaded."""
    if settings_or_none() is None or self.is_draft_worker or get_parallel().pp_size == 1:
        return
    model_class, name = get_model_architecture(self.model_config)
    if "pp_proxy_tensors" not in signature(model_class.forward).parameters:
        with ending_with_a_sentence():
            raise LaunchRefused(
                f"SGLang cannot divide {name} into pipeline stages; drop --pp-size (--tp divides "
                "the model as well)"
            )
