"""The language models of vision models, by name; they are asked without images."""

from __future__ import annotations

from typing import Any

from families import checkpoints
from families.shared_configs import (
    EXPERTS,
    GATED_DELTA_NET_KEYS,
    GATED_DELTA_NETS,
    GEMMA4,
    GEMMA4_KEYS,
    NO_PREFILL_GRAPHS,
    SHARED_EXPERT,
)
from families.tiny_models import Family

# Nothing is encoded or decoded: no processor is needed.
_FLAGS = ("--skip-tokenizer-init",)
_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "patch_size": 16,
}
# Ids of the tokens around and for images, which no prompt has.
_TOKENS = {"image_token_id": 297, "video_token_id": 298, "tie_word_embeddings": False}
_QWEN_TOKENS = {**_TOKENS, "vision_start_token_id": 295, "vision_end_token_id": 296}


def _rope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": sections,
            "mrope_interleaved": True,
            **more,
        }
    }


_QWEN3_5 = {
    **GATED_DELTA_NETS,
    **_rope([2, 1, 1], partial_rotary_factor=0.25),
    "head_dim": 32,
}
_QWEN3_5_VISION = {**_QWEN_TOKENS, "vision_config": _TOWER}
_QWEN3_VISION = {
    **_QWEN_TOKENS,
    "vision_config": {**_TOWER, "deepstack_visual_indexes": [0, 1]},
}

VISION = {
    "qwen3_vl": Family("qwen3_vl", _rope([4, 2, 2]), flags=_FLAGS, vision=_QWEN3_VISION),
    "qwen3_vl_moe": Family(
        "qwen3_vl_moe",
        {
            **_rope([4, 2, 2]),
            **EXPERTS,
            "num_experts": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        served=checkpoints.qwen3_vl_moe,
        flags=_FLAGS,
        vision=_QWEN3_VISION,
    ),
    "qwen3_5_vision": Family(
        "qwen3_5",
        _QWEN3_5,
        served=GATED_DELTA_NET_KEYS,
        flags=_FLAGS,
        vision=_QWEN3_5_VISION,
    ),
    "qwen3_5_moe_vision": Family(
        "qwen3_5_moe",
        {**_QWEN3_5, **SHARED_EXPERT},
        without=("intermediate_size",),
        served=GATED_DELTA_NET_KEYS,
        flags=_FLAGS,
        vision=_QWEN3_5_VISION,
    ),
    "gemma4_vision": Family(
        "gemma4",
        GEMMA4,
        served=GEMMA4_KEYS,
        flags=(*_FLAGS, *NO_PREFILL_GRAPHS),
        prefill_graphs=False,
        led={"softcap": 3.0},
        vision={
            **_TOKENS,
            "tie_word_embeddings": True,
            "boi_token_id": 295,
            "eoi_token_id": 296,
            "audio_config": None,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "patch_size": 16,
                "pooling_kernel_size": 3,
                "position_embedding_size": 64,
            },
        },
    ),
}
