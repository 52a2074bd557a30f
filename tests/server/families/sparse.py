"""The families with experts, recurrent layers or latent attention, by name."""

from __future__ import annotations

from families import checkpoints
from families.tiny_models import HUNYUAN_ATTENTION, WINDOWS, Family

_MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
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
_SHARED_EXPERT = {**_MOE, "num_experts": 8, "shared_expert_intermediate_size": 32}
# Keys of the published configurations that transformers takes for granted.
_NOAUX = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
# The CPU platform keeps no snapshots of recurrent states. Left to itself, SGLang takes half of the
# memory for them, and a graph that is captured copies what it steps forward.
_RECURRENT = (
    *("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
    *("--max-mamba-cache-size", "64"),
)

SPARSE = {
    "qwen3_moe": Family("qwen3_moe", {**_MOE, "num_experts": 8, "norm_topk_prob": True}),
    "qwen2_moe": Family(
        "qwen2_moe",
        {**_SHARED_EXPERT, "decoder_sparse_step": 1, "norm_topk_prob": False},
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
        served=checkpoints.minimax_m2,
    ),
    "mimo_v2": Family(
        "mimo_v2_flash",
        {
            **_MOE,
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
            **_MOE,
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
            **_MOE,
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
            **_MOE,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
            "attention_bias": True,
        },
        served=checkpoints.with_drafting_layer,
    ),
    "qwen3_next": Family(
        "qwen3_next",
        {
            **_SHARED_EXPERT,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "partial_rotary_factor": 0.5,
            # Three value heads a key head: SGLang splits the projection in torch.
            "linear_num_value_heads": 6,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_conv_kernel_dim": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
        served=checkpoints.qwen3_next,
        flags=_RECURRENT,
        native=("gated_delta_net",),
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
        flags=_RECURRENT,
        native=("mamba2",),
        prefill_graphs=False,  # some of its layers do not attend
    ),
    "deepseek_v3": Family(
        "deepseek_v3",
        {**_MOE, **_MLA, **_NOAUX, "n_group": 2, "topk_group": 1},
        served=checkpoints.with_drafting_layer,
    ),
    "deepseek_v2": Family(
        "deepseek_v2",
        {
            **_MOE,
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
        {**_MOE, **_MLA, **_NOAUX, "n_group": 1, "topk_group": 1},
        served=checkpoints.kimi_k2,
    ),
}
