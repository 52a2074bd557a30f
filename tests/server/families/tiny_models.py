"""Tiny random models of every family, in Hugging Face format, with the family's own layer kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from families import checkpoints
from led_sglang.default_model import byte_tokenizer

VOCABULARY = 300  # more than the tokenizer's, and no multiple of anything SGLang pads to

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
_WINDOWS = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
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
_HUNYUAN = {"use_qk_norm": True, "use_cla": False}
_SHARED_EXPERT = {**_MOE, "num_experts": 8, "shared_expert_intermediate_size": 32}
# Keys of the published configurations that transformers takes for granted.
_NOAUX = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}


# The CPU platform keeps no snapshots of recurrent states.
_RECURRENT = ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule")


@dataclass(frozen=True)
class Family:
    """One row of the proof.

    Attributes:
        model_type: of transformers' configuration.
        config: its values beside the common ones.
        without: common keys the configuration does not take.
        served: makes the folder that is served out of the one transformers reads, where the two
            differ: a name transformers does not know, or drafting layers it does not load.
        zero: parts of the names of parameters that are zero.
        flags: of the server.
        native: operations that plain torch replaces, see native_layers.py.
        led: further arguments of the reference, such as `softcap`.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    served: Callable[[Path, Path], None] | None = None
    zero: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    led: dict[str, Any] = field(default_factory=dict)


def write(family: Family, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a random model of the family: weights in float32, and a tokenizer with think tokens.

    Matrices are normal with deviation 1.4 / sqrt(inputs), less where they write to the residual
    stream and more in an LM head of its own, so that both sides of the gate are taken. Norms,
    biases and other vectors are their initial values plus a tenth of a normal draw, so that a norm
    or a bias left out shows.

    Returns:
        The folders of the model for transformers and for the server; mostly the same.
    """
    values = {**_COMMON, **family.config}
    for key in family.without:
        values.pop(key)
    config = AutoConfig.for_model(family.model_type, **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise)
                if "sink" in name:  # SGLang keeps these in bfloat16
                    parameter.copy_(parameter.bfloat16())
                continue
            residual = any(part in name for part in ("o_proj", "down_proj", "out_proj"))
            gain = 0.5 if residual else 3.0 if name == "lm_head.weight" else 1.4
            parameter.copy_(gain / parameter.shape[-1] ** 0.5 * noise)
            if any(part in name for part in family.zero):
                parameter.zero_()
        for name, buffer in model.named_buffers():
            if "correction_bias" in name:
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    path = folder / "model"
    model.save_pretrained(path)
    byte_tokenizer(("<think>", "</think>"), 512).save_pretrained(path)
    if family.served is None:
        return path, path
    family.served(path, folder / "served")
    return path, folder / "served"


DENSE = {
    "llama": Family("llama"),
    "mistral": Family("mistral", {"sliding_window": None}),
    "phi3": Family("phi3", without=("head_dim",)),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}, without=("head_dim",)),
    "qwen3": Family("qwen3"),
    "mimo": Family("qwen2", without=("head_dim",), served=checkpoints.mimo),
    "glm4": Family("glm4", {"attention_bias": True, "partial_rotary_factor": 0.5}),
    "gemma3": Family(
        "gemma3_text", {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, **_WINDOWS}
    ),
    "ernie4_5": Family("ernie4_5", {"tie_word_embeddings": True}, served=checkpoints.ernie),
    "ernie4_5_hf": Family("ernie4_5", {"tie_word_embeddings": True}),
    "seed_oss": Family("seed_oss"),
    "nemotron_nas": Family(
        "llama",
        {"intermediate_size": 256},
        served=checkpoints.nemotron_nas,
        zero=(
            "layers.1.self_attn.o_proj",
            "layers.2.mlp.down_proj",
            "layers.3.self_attn.o_proj",
            "layers.3.mlp.down_proj",
        ),
    ),
    "gemma2": Family(
        "gemma2",
        {
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 3.0,
            # SGLang's torch attention caps nothing: a cap that does nothing either.
            "attn_logit_softcapping": 1e5,
            **_WINDOWS,
        },
        served=checkpoints.gemma2,
        native=("soft_cap",),
        led={"softcap": 3.0},
    ),
    "exaone4": Family(
        "exaone4",
        {
            # What SGLang takes whatever the configuration says.
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "rms_norm_eps": 1e-6,
            "sliding_window_pattern": 2,
            **_WINDOWS,
        },
        served=checkpoints.exaone4,
        flags=("--attention-backend", "triton"),
        native=("triton_attention",),
    ),
    "hunyuan": Family(
        "hunyuan_v1_dense", {"tie_word_embeddings": True, **_HUNYUAN}, native=("rows_of_queries",)
    ),
    "granite": Family(
        "granite",
        {
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
        without=("head_dim",),
        led={"logit_scale": 0.25},
    ),
}

SPARSE = {
    "qwen3_moe": Family("qwen3_moe", {**_MOE, "num_experts": 8, "norm_topk_prob": True}),
    "qwen2_moe": Family(
        "qwen2_moe",
        {**_SHARED_EXPERT, "decoder_sparse_step": 1, "norm_topk_prob": False},
        without=("head_dim",),
        native=("shared_expert_gate",),
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
        native=("query_key_norm",),
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
        native=("router_bias",),
    ),
    "hunyuan_moe": Family(
        "hunyuan_v1_moe",
        {
            **_HUNYUAN,
            **_MOE,
            "intermediate_size": 32,  # transformers' experts have this size
            "num_experts": 8,
            "moe_topk": [2] * 4,
            "num_shared_expert": [1] * 4,
            "use_mixed_mlp_moe": True,
        },
        native=("rows_of_queries",),
    ),
    "gpt_oss": Family(
        "gpt_oss",
        {"num_local_experts": 8, "num_experts_per_tok": 2, **_WINDOWS},
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
        native=("shared_expert_gate", "gated_delta_net"),
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

FAMILIES = {**DENSE, **SPARSE}
