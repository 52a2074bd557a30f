"""After a weight update LED must still read the LM head that the model has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from led_sglang.patches import weight_updates


@pytest.mark.parametrize("hook", [weight_updates._loaded_from_disk, weight_updates._session_ends])
def test_another_head_ends_the_server_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, hook: Any
) -> None:
    """Written into the old one, as every way of SGLang's does, it is the same head still."""
    read = SimpleNamespace(weight=torch.zeros(5, 2))
    shards = {"old": read, "another": SimpleNamespace(weight=torch.zeros(5, 2))}
    model = SimpleNamespace(head="old")
    runner = SimpleNamespace(sampler=SimpleNamespace(methods=SimpleNamespace(head=read)))
    updater = SimpleNamespace(get_model_runner=lambda: runner, get_model=lambda: model)
    monkeypatch.setattr(weight_updates, "serves_led", lambda _: True)
    monkeypatch.setattr(weight_updates, "samples_here", lambda: True)
    monkeypatch.setattr(weight_updates, "lm_head_shard", lambda of: shards[of.head])
    read.weight.fill_(1.0)
    hook(None, updater)
    model.head = "another"
    with pytest.raises(RuntimeError, match=r"another LM head into the model.*restart the server"):
        hook(None, updater)
