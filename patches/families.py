"""How each architecture's residual streams h^l are captured: one table, by the name in config.json.

A row without a note is proven: a test serves the architecture and compares every captured latent
and every token with transformers (tests/server/families). docs/models.md shows the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# dflash, eagle3: the setter of SGLang's class. boundary: the capture callback of the attention
# boundary of a layer. layer_input: what enters a layer, branch plus residual. snapshot: a copy of
# the stream before a layer.
Method = Literal["dflash", "eagle3", "boundary", "layer_input", "snapshot", "refused"]


@dataclass(frozen=True)
class Capture:
    """One row: the method, and why the architecture is refused or not proven (None: proven)."""

    method: Method
    note: str | None = None


_STREAMS = "its layers pass on several residual streams, and none of them is h^l"
_NOTHING = "nothing has compared it with transformers yet"
_DIFFERS = "its sliding layers differ from those of transformers on CPU, and why is not known"
_TRITON = "SGLang runs a part of its layers in Triton alone, and the tests have no GPU"
_ATTENTION = "SGLang asks for an attention backend of a GPU, and the tests have none"
_CPU = "SGLang's layers of it fail on the CPU platform, and the tests have no GPU"
_IMAGES = "the tests send no images through a vision model"

CAPTURES: dict[str, Capture] = {
    "LlamaForCausalLM": Capture("dflash"),
    "MistralForCausalLM": Capture("dflash"),
    "Phi3ForCausalLM": Capture("dflash"),
    "Qwen2ForCausalLM": Capture("eagle3"),
    "Qwen2MoeForCausalLM": Capture("eagle3", _TRITON),
    "Qwen3ForCausalLM": Capture("dflash"),
    "Qwen3MoeForCausalLM": Capture("dflash"),
    "Qwen3NextForCausalLM": Capture("dflash", _NOTHING),
    "DeepseekV2ForCausalLM": Capture("dflash", _NOTHING),
    "DeepseekV3ForCausalLM": Capture("dflash"),
    "GptOssForCausalLM": Capture("dflash"),
    "Glm4ForCausalLM": Capture("boundary"),
    "Glm4MoeForCausalLM": Capture("eagle3"),
    "MiMoForCausalLM": Capture("boundary"),
    "MiMoV2FlashForCausalLM": Capture("dflash", _DIFFERS),
    "MiMoV2ForCausalLM": Capture("dflash", "transformers has its text-only Flash variant alone"),
    "MiniMaxM2ForCausalLM": Capture("eagle3", _TRITON),
    "NemotronHForCausalLM": Capture("dflash", _NOTHING),
    "DeciLMForCausalLM": Capture("snapshot"),
    # The eagle3 setter of Gemma 3 hands out the branch without the residual.
    "Gemma2ForCausalLM": Capture("layer_input", _TRITON),
    "Gemma3ForCausalLM": Capture("layer_input"),
    "Exaone4ForCausalLM": Capture("boundary", _ATTENTION),
    "Ernie4_5_ForCausalLM": Capture("layer_input"),
    "Ernie4_5_MoeForCausalLM": Capture("layer_input", _CPU),
    "HunYuanDenseV1ForCausalLM": Capture("layer_input", _CPU),
    "HunYuanMoEV1ForCausalLM": Capture("layer_input", _CPU),
    "GraniteForCausalLM": Capture("layer_input"),
    # SGLang runs these with transformers' own layers.
    "SeedOssForCausalLM": Capture("layer_input"),
    "Ernie4_5ForCausalLM": Capture("layer_input"),
    # Vision models: their language model's rows above.
    "Mistral3ForConditionalGeneration": Capture("dflash", _IMAGES),
    "Gemma3ForConditionalGeneration": Capture("layer_input", _IMAGES),
    "KimiK25ForConditionalGeneration": Capture("dflash", _IMAGES),
    "Qwen2_5_VLForConditionalGeneration": Capture("eagle3"),
    "DeepseekV4ForCausalLM": Capture("refused", _STREAMS),
    "HYV4ForCausalLM": Capture("refused", _STREAMS),
    "Glm5NextForConditionalGeneration": Capture("refused", _STREAMS),
    "Qwen4ExpForConditionalGeneration": Capture("refused", _STREAMS),
    "Gemma3nForCausalLM": Capture("refused", _STREAMS),
    "Gemma3nForConditionalGeneration": Capture("refused", _STREAMS),
    "KimiK3ForConditionalGeneration": Capture("refused", _STREAMS),
    "KimiK3LinearForCausalLM": Capture("refused", _STREAMS),
}
