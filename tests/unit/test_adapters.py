"""Adapters are tried over buffers without memory, those of the launch too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from led_sglang.patches import adapters


class Pool:
    """As SGLang's: two slots of a buffer for each of two layers."""

    def __init__(self) -> None:
        self.A_buffer = {"q_proj": [torch.zeros(2, 4, 8) for _ in range(2)]}

    def load_lora_weight_to_buffer(self, *, lora_adapter: Any, **_: Any) -> None:
        for buffer in self.A_buffer["q_proj"]:
            if buffer[0].shape != lora_adapter.weight.shape:
                raise ValueError("the shapes\ndiffer.")
            buffer[0].copy_(lora_adapter.weight)


def test_an_adapter_of_the_launch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "settings_or_none", object)
    fits = SimpleNamespace(uid="1", weight=torch.ones(4, 8))
    manager = SimpleNamespace(memory_pool=Pool(), loras={"1": fits}, lora_modules=[])
    manager.embed_tokens_module = manager.lm_head_module = None
    adapters._refuse_those_of_the_launch(None, manager)
    # Nothing was copied, and the pool has its own buffers.
    assert not any(buffer.any() for buffer in manager.memory_pool.A_buffer["q_proj"])
    manager.loras["2"] = SimpleNamespace(uid="2", weight=torch.ones(4, 9))
    manager.lora_refs = {"2": SimpleNamespace(lora_name="wide")}
    with pytest.raises(SystemExit, match=r"wide of --lora-paths .* \(the shapes differ\)$"):
        adapters._refuse_those_of_the_launch(None, manager)
