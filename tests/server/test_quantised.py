"""Quantised layers, LM head and KV cache: other hidden states, the same method.

LED calls the LM head where there is no plain weight to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import int8_plugin
import torch
from extra_plugin import plugin_environment
from features.checks import ALWAYS, GREEDY, assert_led_tokens, think_flags
from harness import Body, serve
from oracle import Oracle
from transformers import DynamicCache


class Fp8Cache(DynamicCache):
    """Keys and values rounded to e5m2 as they are stored."""

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        rounded = [s.to(torch.float8_e5m2).to(s.dtype) for s in (key_states, value_states)]
        return super().update(*rounded, *args, **kwargs)


class QuantisedOracle(Oracle):
    """The oracle with int8 matrices (the embedding aside), an fp8 cache, or both."""

    def __init__(self, path: Path, int8: bool, fp8: bool) -> None:
        super().__init__(path)
        self.cache = Fp8Cache if fp8 else DynamicCache
        with torch.no_grad():
            for module in self.model.modules():
                if int8 and isinstance(module, torch.nn.Linear):
                    weight, scale = int8_plugin.quantised(module.weight)
                    module.weight.copy_(weight.float() * scale)

    @torch.no_grad()
    def states(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.model(
            torch.tensor([list(ids)]), output_hidden_states=True, past_key_values=self.cache()
        )
        streams = torch.stack(out.hidden_states[1 : self.layers], dim=1)[0]
        return out.logits[0], streams.transpose(0, 1).flip(1)


def test_tokens(untied_model_path: Path, prompts: list[Sequence[int]], tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"final_norm": True},
        {"candidates": 20, "layers": "release", "depth": 4},
    ]
    bodies: list[Body] = [
        (prompt, {"led": ALWAYS | variant}, GREEDY | {"max_new_tokens": 32})
        for prompt, variant in zip(prompts, variants, strict=False)
    ]
    flags = ("--dtype", "float32", "--quantization", int8_plugin.NAME)
    flags += ("--kv-cache-dtype", "fp8_e5m2")
    environment = plugin_environment(tmp_path, Path(int8_plugin.__file__))
    with serve(untied_model_path, *flags, env=environment) as server:
        answers = server.generate_batch(bodies)
    both = QuantisedOracle(untied_model_path, int8=True, fp8=True)
    # Without either rounding the oracle does not find these tokens: both are in the server.
    halves = [QuantisedOracle(untied_model_path, int8, not int8) for int8 in (True, False)]
    differences: list[list[str]] = [[], []]
    for (prompt, custom, _), answer in zip(bodies, answers, strict=True):
        tokens, led = answer["output_ids"], custom["led"]
        assert_led_tokens(both, prompt, tokens, **led)
        for half, found in zip(halves, differences, strict=True):
            verdict = half.check_greedy(prompt, tokens, think_flags(prompt, tokens), **led)
            found += verdict.differences or []
    assert all(differences)
