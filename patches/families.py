"""How each architecture's residual streams h^l are captured: one table, by the name in config.json.

A row without a note is proven: a test serves the architecture and compares every captured latent
and every token with transformers (tests/server/families). docs/models.md shows the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# dflash, eagle3: the setter of SGLang's class. boundary: the capture callback of the attention
# boundary of a layer. layer_input: what enters a layer, branch plus residual. whole_input: the
# branch alone, where it is the whole stream and a stale residual lies beside it. snapshot: a copy
# of the stream before a layer.
Method = Literal[
    "dflash", "eagle3", "boundary", "layer_input", "whole_input", "snapshot", "refused"
]


@dataclass(frozen=True)
class Capture:
    """One row of the table.

    Attributes:
        method: how h^l is captured.
        note: why the architecture is refused or not proven; None: proven.
        marks: whether the class reads before or after the layers that its setter marks.
    """

    method: Method
    note: str | None = None
    marks: Literal["before", "after"] = "before"


# Why a row is not proven by a test; the check at launch proves it on the user's machine.
_STREAMS = (
    "its layers pass on several residual streams, and LED does not yet mix them at inner layers as "
    "its head does behind the last one"
)
_MIXED = "its head norms and mixes several residual streams in one step, and LED needs two"
_BANK = (
    "its head reads a bank of residual blocks, and LED does not yet mix it at inner layers as the "
    "head does behind the last one"
)
_SPARSE = "the index of its sparse attention is a kernel of a GPU, and the tests have none"
_IMAGES = "the tests send no images through a vision model"
_NOT_RUN = "its class was read, and no test has run it"
_CARD = "its class was read, and its launch needs a GPU, which the tests have none of"
_CONVOLVED = "its class hands out streams that lack the convolution which the next layer adds"

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
    "DeepseekV32ForCausalLM": Capture("dflash", _SPARSE),
    "GptOssForCausalLM": Capture("dflash"),
    "Glm4ForCausalLM": Capture("boundary"),
    "Glm4MoeForCausalLM": Capture("eagle3"),
    "MiMoForCausalLM": Capture("boundary"),
    "MiMoV2FlashForCausalLM": Capture("dflash"),
    "MiMoV2ForCausalLM": Capture("dflash", "transformers has its text-only Flash variant alone"),
    "MiniMaxM2ForCausalLM": Capture("eagle3"),
    "NemotronHForCausalLM": Capture("dflash"),
    "DeciLMForCausalLM": Capture("snapshot"),
    # The eagle3 setter of Gemma 3 hands out the branch without the residual.
    "Gemma2ForCausalLM": Capture("layer_input"),
    "Gemma3ForCausalLM": Capture("layer_input"),
    "Exaone4ForCausalLM": Capture("boundary"),
    "Ernie4_5_ForCausalLM": Capture("layer_input"),
    "Ernie4_5_MoeForCausalLM": Capture("layer_input"),
    "HunYuanDenseV1ForCausalLM": Capture("layer_input"),
    "HunYuanMoEV1ForCausalLM": Capture("layer_input"),
    "GraniteForCausalLM": Capture("layer_input"),
    "Qwen3_5ForCausalLM": Capture("eagle3"),  # the dflash setter takes no embeddings
    "Qwen3_5MoeForCausalLM": Capture("eagle3"),
    "Gemma4ForCausalLM": Capture("eagle3"),
    "Glm4MoeLiteForCausalLM": Capture("dflash"),
    "Ministral3ForCausalLM": Capture("dflash"),
    "LagunaForCausalLM": Capture("dflash"),
    "HYV3ForCausalLM": Capture("layer_input"),
    "ExaoneMoEForCausalLM": Capture("eagle3"),
    "ExaoneMoeForCausalLM": Capture("eagle3"),
    # Its layers are entered by the branch alone.
    "MixtralForCausalLM": Capture("boundary"),
    "Lfm2ForCausalLM": Capture("dflash"),
    "Lfm2MoeForCausalLM": Capture("dflash"),
    "Olmo2ForCausalLM": Capture("layer_input"),
    "Olmo3ForCausalLM": Capture("layer_input"),
    "OlmoeForCausalLM": Capture("layer_input"),
    "GraniteMoeForCausalLM": Capture("layer_input"),
    "Cohere2ForCausalLM": Capture("whole_input"),
    "Step3p5ForCausalLM": Capture("boundary"),
    "BailingMoeForCausalLM": Capture("eagle3"),
    "BailingMoEForCausalLM": Capture("eagle3"),
    "BailingMoeV2ForCausalLM": Capture("eagle3"),
    "InternLM3ForCausalLM": Capture("dflash"),
    # Read, not run.
    "GlmMoeDsaForCausalLM": Capture("dflash", _CARD),
    # Of several streams its head reads the mean, and so does this setter; eagle3's hands out all.
    "Glm5NextForConditionalGeneration": Capture("dflash", _CARD),
    "MiniMaxM3SparseForCausalLM": Capture("eagle3", _CARD),
    "MiniMaxM3SparseForConditionalGeneration": Capture("dflash", _CARD),
    "Step3p7ForConditionalGeneration": Capture("boundary", _NOT_RUN),
    "MistralLarge3ForCausalLM": Capture("dflash", _NOT_RUN),
    "KimiLinearForCausalLM": Capture("boundary", _CARD),
    "NemotronHPuzzleForCausalLM": Capture("dflash", _NOT_RUN),
    "NemotronH_Nano_VL_V2": Capture("dflash", _IMAGES),
    "NemotronH_Nano_Omni_Reasoning_V3": Capture("dflash", _IMAGES),
    "NemotronH_Omni_Reasoning_V3": Capture("dflash", _IMAGES),
    "BailingMoeV3ForCausalLM": Capture("boundary", _CARD),
    "LongcatFlashForCausalLM": Capture("eagle3", _NOT_RUN),
    "CohereForCausalLM": Capture("whole_input", _NOT_RUN),
    "Llama4ForCausalLM": Capture("boundary", _NOT_RUN),
    "GraniteMoeHybridForCausalLM": Capture("boundary", _NOT_RUN),
    "FalconH1ForCausalLM": Capture("boundary", _NOT_RUN),
    "K2HorizonForCausalLM": Capture("boundary", _NOT_RUN),
    # SGLang runs these with transformers' own layers.
    "SeedOssForCausalLM": Capture("layer_input"),
    "Ernie4_5ForCausalLM": Capture("layer_input"),
    # Vision models: their language model's rows above.
    "Mistral3ForConditionalGeneration": Capture("dflash", _IMAGES),
    "Gemma3ForConditionalGeneration": Capture("layer_input", _IMAGES),
    "KimiK25ForConditionalGeneration": Capture("dflash", _IMAGES),
    "Qwen2_5_VLForConditionalGeneration": Capture("eagle3"),
    "Qwen3VLForConditionalGeneration": Capture("eagle3"),
    "Qwen3VLMoeForConditionalGeneration": Capture("eagle3"),
    "Qwen3_5ForConditionalGeneration": Capture("eagle3"),
    "Qwen3_5MoeForConditionalGeneration": Capture("eagle3"),
    "Gemma4ForConditionalGeneration": Capture("eagle3"),
    # Their setters mark the layers whose outputs they hand out.
    "BeamForCausalLM": Capture("dflash", _NOT_RUN, marks="after"),
    "MuseSparkForConditionalGeneration": Capture("dflash", _NOT_RUN, marks="after"),
    # The dflash setter of Muse Glimmer marks those, too, and then reads before them.
    "MuseGlimmerForCausalLM": Capture("layer_input", _NOT_RUN),
    "MuseGlimmerForConditionalGeneration": Capture("layer_input", _NOT_RUN),
    "InklingForConditionalGeneration": Capture("refused", _CONVOLVED),
    "DeepseekV4ForCausalLM": Capture("refused", _STREAMS),
    "HYV4ForCausalLM": Capture("refused", _STREAMS),
    "Qwen4ExpForConditionalGeneration": Capture("refused", _MIXED),
    "Gemma3nForCausalLM": Capture("refused", _STREAMS),
    "Gemma3nForConditionalGeneration": Capture("refused", _STREAMS),
    "KimiK3ForConditionalGeneration": Capture("refused", _BANK),
    "KimiK3LinearForCausalLM": Capture("refused", _BANK),
}
