"""How each architecture's residual streams h^l are captured: one table, by SGLang's model class.

`proven` means that a test loads the architecture on a real server and in transformers and compares
every captured latent and every token (tests/server/families); docs/models.md shows the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# dflash, eagle3: SGLang's own setter. boundary: the capture callback of each layer's attention
# boundary. layer_input: what enters a layer, branch plus residual.
Method = Literal["dflash", "eagle3", "boundary", "layer_input", "refused"]


@dataclass(frozen=True)
class Capture:
    """One row: the method, and why the row is refused or not proven (None: proven)."""

    method: Method
    reason: str | None = None


CAPTURES: dict[str, Capture] = {
    "LlamaForCausalLM": Capture("dflash"),
    "MistralForCausalLM": Capture("dflash"),
    "Phi3ForCausalLM": Capture("dflash"),
    "Qwen2ForCausalLM": Capture("eagle3"),
    "Qwen2MoeForCausalLM": Capture("eagle3"),
    "Qwen3ForCausalLM": Capture("dflash"),
    "Qwen3MoeForCausalLM": Capture("dflash"),
    "Qwen3NextForCausalLM": Capture("dflash"),
    "DeepseekV2ForCausalLM": Capture("dflash"),
    "DeepseekV3ForCausalLM": Capture("dflash"),
    "GptOssForCausalLM": Capture("dflash"),
    "Glm4ForCausalLM": Capture("boundary"),
    "Glm4MoeForCausalLM": Capture("eagle3"),
    "MiMoForCausalLM": Capture("boundary"),
    "MiMoV2FlashForCausalLM": Capture("dflash"),
    "MiniMaxM2ForCausalLM": Capture("eagle3"),
    "NemotronHForCausalLM": Capture("dflash"),
    "DeciLMForCausalLM": Capture("boundary"),
    "Gemma2ForCausalLM": Capture("layer_input"),
    "Gemma3ForCausalLM": Capture("layer_input"),
    "Exaone4ForCausalLM": Capture("boundary"),
    "Ernie4_5_ForCausalLM": Capture("layer_input"),
    "Ernie4_5ForCausalLM": Capture("layer_input"),
    "Ernie4_5_MoeForCausalLM": Capture("layer_input"),
    "HunYuanDenseV1ForCausalLM": Capture("layer_input"),
    "HunYuanMoEV1ForCausalLM": Capture("layer_input"),
    "SeedOssForCausalLM": Capture("layer_input"),
    "GraniteForCausalLM": Capture("layer_input"),
}
