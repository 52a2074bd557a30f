"""LoRA adapters that do not fit the model are refused when they are loaded.

SGLang compares shapes when an adapter's first request runs, and ends its scheduler over them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.settings import LaunchRefused

_MANAGER = "lora.lora_manager.LoRAManager."


@hook(_MANAGER + "load_lora_weights", "AFTER")
@hook(_MANAGER + "load_lora_weights_from_tensors", "AFTER")
def _refuse_what_does_not_fit(result: Any, self: Any, lora_ref: Any, *_: Any, **__: Any) -> None:
    """SGLang answers with what is raised in here. Before the launch is done there is no pool."""
    if settings_or_none() is None or getattr(self, "memory_pool", None) is None:
        return
    misfit = _misfit(self, self.loras[lora_ref.lora_id])
    if misfit:
        del self.loras[lora_ref.lora_id]
        raise ValueError(f"the adapter {lora_ref.lora_name} does not fit the model ({misfit})")


@hook(_MANAGER + "init_memory_pool", "AFTER")
def _refuse_those_of_the_launch(result: Any, self: Any) -> None:
    if settings_or_none() is None:
        return
    for lora_id, adapter in self.loras.items():
        misfit = _misfit(self, adapter)
        if misfit:
            name = self.lora_refs[lora_id].lora_name
            with ending_with_a_sentence():
                raise LaunchRefused(
                    f"the adapter {name} of --lora-paths does not fit the model ({misfit})"
                )


def _misfit(manager: Any, adapter: Any) -> str:
    """Why SGLang's pool would not take an adapter; empty where it would.

    The pool's own code is run, over buffers that have shapes and no memory.
    """
    pool = copy.copy(manager.memory_pool)
    pool.pin_memory_available = False
    for name, buffer in list(vars(pool).items()):
        if name.endswith("_buffer"):
            setattr(pool, name, _without_memory(buffer))
    try:
        pool.load_lora_weight_to_buffer(
            uid=adapter.uid,
            buffer_id=0,
            lora_adapter=adapter,
            lora_modules=manager.lora_modules,
            lora_embed_tokens_module=manager.embed_tokens_module,
            lora_lm_head_module=manager.lm_head_module,
        )
    except (AssertionError, ValueError) as error:  # its own checks of shapes and names
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    except RuntimeError:
        pass  # what buffers without memory cannot do says nothing of the adapter
    return ""


def _without_memory(buffers: Any) -> Any:
    """The first slot of each buffer, on torch's meta device."""
    if isinstance(buffers, dict):
        return {name: _without_memory(buffer) for name, buffer in buffers.items()}
    if isinstance(buffers, list):
        return [_without_memory(buffer) for buffer in buffers]
    return torch.empty_like(buffers[:1], device="meta") if isinstance(buffers, Tensor) else buffers
