"""The families with experts or latent attention, by name."""

from __future__ import annotations

from families import checkpoints
from families.shared_configs import (
    EXPERTS,
    GEMMA4,
    GEMMA4_KEYS,
    HUNYUAN_ATTENTION,
    SHARED_EXPERT,
    WINDOWS,
)
from families.tiny_models import Family

_MLA = {
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "head_dim": 8,
    "moe_layer_freq": 1,
    # SGLang's rotary embedding on CPU knows this kind alone for latent attention.
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
# Keys of the published configurations that transformers takes for granted.
_NOAUX = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}

_DENSE_FIRST = ["dense", *["sparse"] * 3]

SPARSE = {
    "qwen3_moe": Family("qwen3_moe", {**EXPERTS, "num_experts": 8, "norm_topk_prob": True}),
    "qwen2_moe": Family(
        "qwen2_moe",
        {**SHARED_EXPERT, "decoder_sparse_step": 1, "norm_topk_prob": False},
        without=("head_dim",),
    ),
    "minimax_m2": Family(
        "minimax_m2",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
            "rotary_dim": 8,
            "partial_rotary_factor": 0.5,
        },
        served=checkpoints.with_keys(
            scoring_func="sigmoid", use_routing_bias=True, use_qk_norm=True, rotary_dim=8
        ),
    ),
    "mimo_v2": Family(
        "mimo_v2_flash",
        {
            **EXPERTS,
            "num_local_experts": 8,
            "n_group": 1,
            "topk_group": 1,
            "v_head_dim": 8,
            "num_key_value_heads": 1,
            "sliding_window": 16,
            "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
            "mlp_layer_types": ["dense", *["sparse"] * 3],
            "rope_parameters": {
                kind: {
                    "rope_type": "default",
                    "rope_theta": theta,
                    "partial_rotary_factor": 0.5,
                }
                for kind, theta in [("full_attention", 10000.0), ("sliding_attention", 500.0)]
            },
        },
        served=checkpoints.mimo_v2,
    ),
    "ernie4_5_moe": Family(
        "ernie4_5_moe",
        {
            **EXPERTS,
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 3,
            "moe_layer_interval": 1,
            "tie_word_embeddings": True,
        },
        without=("head_dim",),
    ),
    "hunyuan_moe": Family(
        "hunyuan_v1_moe",
        {
            **HUNYUAN_ATTENTION,
            **EXPERTS,
            "intermediate_size": 32,  # transformers' experts have this size
            "num_experts": 8,
            "moe_topk": [2] * 4,
            "num_shared_expert": [1] * 4,
            "use_mixed_mlp_moe": True,
        },
    ),
    "gpt_oss": Family(
        "gpt_oss",
        {"num_local_experts": 8, "num_experts_per_tok": 2, **WINDOWS},
        # Of the layouts of its experts, the one that SGLang can run without a GPU.
        flags=("--moe-runner-backend", "triton"),
    ),
    "glm4_moe": Family(
        "glm4_moe",
        {
            **EXPERTS,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
            "attention_bias": True,
        },
        served=checkpoints.with_drafting_layer,
    ),
    "ling": Family(
        "glm4_moe",
        {
            **EXPERTS,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": False,
            "attention_bias": True,
            "n_group": 2,
            "topk_group": 1,
        },
        served=checkpoints.bailing_moe_v2,
    ),
    "deepseek_v3": Family(
        "deepseek_v3",
        {**EXPERTS, **_MLA, **_NOAUX, "n_group": 2, "topk_group": 1},
        served=checkpoints.with_drafting_layer,
    ),
    "deepseek_v2": Family(
        "deepseek_v2",
        {
            **EXPERTS,
            **_MLA,
            "topk_method": "group_limited_greedy",
            "scoring_func": "softmax",
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": False,
        },
    ),
    "kimi_k2": Family(
        "deepseek_v3",
        {**EXPERTS, **_MLA, **_NOAUX, "n_group": 1, "topk_group": 1},
        served=checkpoints.under_the_name(
            "KimiK2Config", "DeepseekV3Config", "kimi_k2", "DeepseekV3ForCausalLM"
        ),
    ),
    "glm4_moe_lite": Family(
        "glm4_moe_lite", {**EXPERTS, **_MLA, **_NOAUX, "n_group": 1, "topk_group": 1}
    ),
    "mixtral": Family(
        "mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
    ),
    "olmoe": Family(
        "olmoe",
        {"num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2},
        without=("head_dim",),
    ),
    "granitemoe": Family(
        "granitemoe",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
        without=("head_dim",),
        led={"logit_scale": 0.25},
    ),
    "hy_v3": Family(
        "hy_v3",
        {**EXPERTS, "num_experts": 8, "num_shared_experts": 1, "mlp_layer_types": _DENSE_FIRST},
        served=checkpoints.with_keys(
            first_k_dense_replace=1,
            use_qk_norm=True,
            qk_norm=True,
            moe_router_use_sigmoid=True,
            moe_router_enable_expert_bias=True,
            route_norm=True,
            expert_hidden_dim=32,
            enable_lm_head_fp32=False,
        ),
    ),
    "laguna": Family(
        "laguna",
        {
            **SHARED_EXPERT,
            **WINDOWS,
            "num_attention_heads_per_layer": [4] * 4,
            "mlp_layer_types": _DENSE_FIRST,
            "gating": True,
            "rope_parameters": {
                kind: {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 1.0,
                }
                for kind in ("full_attention", "sliding_attention")
            },
        },
    ),
    "exaone_moe": Family(
        "exaone_moe",
        {
            **EXPERTS,
            **WINDOWS,
            "sliding_window": 400,  # SGLang's is one token wider than transformers'
            "sliding_window_pattern": 2,
            "num_experts": 8,
            "n_group": 1,
            "topk_group": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "mlp_layer_types": _DENSE_FIRST,
        },
        served=checkpoints.with_keys(
            sliding_window_pattern="LG", is_moe_layer=[False, True, True, True]
        ),
        flags=("--attention-backend", "triton"),
    ),
    "step3p5": Family(
        "step3p7",
        {
            **EXPERTS,
            **WINDOWS,
            "sliding_window": 400,  # holds every prompt
            "num_sliding_attention_heads": 2,
            "n_routed_experts": 8,
            "share_expert_dim": 32,
            "moe_router_scaling_factor": 1.5,
            "mlp_layer_types": _DENSE_FIRST,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.5,
                },
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": 500.0,
                    "partial_rotary_factor": 1.0,
                },
            },
        },
        served=checkpoints.step3p5,
        vision={
            "vision_config": {
                "width": 32,
                "layers": 1,
                "heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "mlp_ratio": 2.0,
            },
            "image_token_id": 297,
        },
    ),
    "gemma4_moe": Family(
        "gemma4_text",
        {
            **GEMMA4,
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
        served=GEMMA4_KEYS,
        led={"softcap": 3.0},
    ),
}
