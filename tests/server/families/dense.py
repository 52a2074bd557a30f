"""The dense families, by name."""

from __future__ import annotations

from families import checkpoints
from families.shared_configs import (
    GEMMA4,
    GEMMA4_KEYS,
    HUNYUAN_ATTENTION,
    NO_PREFILL_GRAPHS,
    WINDOWS,
)
from families.tiny_models import Family

_SCALED_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}

DENSE = {
    "llama": Family("llama"),
    "internlm3": Family(
        "llama",
        served=checkpoints.under_the_name(
            "InternLM3Config", "LlamaConfig", "internlm3", "InternLM3ForCausalLM"
        ),
    ),
    "mistral": Family("mistral", {"sliding_window": None}),
    "phi3": Family("phi3", without=("head_dim",)),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}, without=("head_dim",), tried="eagle3"),
    "qwen3": Family("qwen3", tried="dflash"),
    "mimo": Family("qwen2", without=("head_dim",), served=checkpoints.mimo),
    "glm4": Family(
        "glm4", {"attention_bias": True, "partial_rotary_factor": 0.5}, tried="boundary"
    ),
    "gemma3": Family(
        "gemma3_text", {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, **WINDOWS}
    ),
    "ernie4_5": Family("ernie4_5", {"tie_word_embeddings": True}, served=checkpoints.ernie),
    # SGLang runs these two with transformers' layers.
    "ernie4_5_hf": Family("ernie4_5", {"tie_word_embeddings": True}, prefill_graphs=False),
    "seed_oss": Family("seed_oss", prefill_graphs=False),
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
        prefill_graphs=False,  # some of its layers do not attend
        tried="refused",  # nor are copies of the stream among the ways that are tried
    ),
    "gemma2": Family(
        "gemma2",
        {
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 3.0,
            # SGLang's torch attention caps nothing: a cap that does nothing either.
            "attn_logit_softcapping": 1e5,
            **WINDOWS,
        },
        served=checkpoints.with_keys(hidden_act="gelu_pytorch_tanh"),
        led={"softcap": 3.0},
        tried="layer_input",
    ),
    "exaone4": Family(
        "exaone4",
        {
            # What SGLang takes whatever the configuration says.
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "rms_norm_eps": 1e-6,
            "sliding_window_pattern": 2,
            **WINDOWS,
        },
        served=checkpoints.with_keys(sliding_window_pattern="LG"),
        # The launch of a model with windows takes a name of a GPU's backends alone.
        flags=("--attention-backend", "triton"),
    ),
    "hunyuan": Family("hunyuan_v1_dense", {"tie_word_embeddings": True, **HUNYUAN_ATTENTION}),
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
    "olmo2": Family("olmo2", without=("head_dim",)),
    "olmo3": Family(
        "olmo3",
        WINDOWS,
        without=("head_dim",),
        served=checkpoints.with_keys(
            without=("rope_parameters",), rope_theta=500000.0, rope_scaling=None
        ),
    ),
    "ministral3": Family("ministral3", {"rope_parameters": _SCALED_YARN}),
    "cohere2": Family(
        "cohere2",
        {
            "tie_word_embeddings": True,
            # SGLang's windows are one token wider than transformers' there: none of them is full.
            **WINDOWS,
            "sliding_window": 400,
            "logit_scale": 0.5,
            "layer_norm_eps": 1e-5,
        },
        without=("head_dim",),
        led={"logit_scale": 0.5},
        tried="whole_input",
    ),
    "gemma4": Family("gemma4_text", GEMMA4, served=GEMMA4_KEYS, led={"softcap": 3.0}),
    "gemma4_embeddings": Family(
        "gemma4_text",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 300,
            "num_kv_shared_layers": 2,
        },
        served=GEMMA4_KEYS,
        flags=NO_PREFILL_GRAPHS,
        prefill_graphs=False,
        led={"softcap": 3.0},
    ),
}
