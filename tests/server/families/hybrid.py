"""The families with recurrent layers, by name."""

from __future__ import annotations

from families import checkpoints
from families.shared_configs import (
    EXPERTS,
    GATED_DELTA_NET_KEYS,
    GATED_DELTA_NETS,
    SHARED_EXPERT,
)
from families.tiny_models import Family

_CONVOLUTIONS = {
    "tie_word_embeddings": True,
    "layer_types": ["conv", "full_attention"] * 2,
    "conv_L_cache": 3,
    "conv_bias": False,
}

HYBRID = {
    "qwen3_next": Family(
        "qwen3_next",
        {
            **GATED_DELTA_NETS,
            **SHARED_EXPERT,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "partial_rotary_factor": 0.5,
        },
        served=GATED_DELTA_NET_KEYS,
    ),
    "qwen3_5": Family(
        "qwen3_5_text",
        GATED_DELTA_NETS,
        served=GATED_DELTA_NET_KEYS,
    ),
    "qwen3_5_moe": Family(
        "qwen3_5_moe_text",
        {**GATED_DELTA_NETS, **SHARED_EXPERT},
        without=("intermediate_size",),
        served=GATED_DELTA_NET_KEYS,
    ),
    "nemotron_h": Family(
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
            "conv_kernel": 4,
            "chunk_size": 16,
            "time_step_min": 1e-9,  # transformers' steps have a lower bound, SGLang's have none
        },
        served=checkpoints.nemotron_h,
        prefill_graphs=False,  # some of its layers do not attend
    ),
    "lfm2": Family(
        "lfm2",
        {**_CONVOLUTIONS, "block_auto_adjust_ff_dim": False},
        without=("head_dim",),
        prefill_graphs=False,  # some of its layers do not attend
    ),
    "lfm2_moe": Family(
        "lfm2_moe",
        {**_CONVOLUTIONS, **EXPERTS, "num_experts": 8, "num_dense_layers": 1},
        without=("head_dim",),
        prefill_graphs=False,
    ),
}
