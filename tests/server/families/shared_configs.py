"""Parts of configurations that several families share."""

from __future__ import annotations

from families import checkpoints

WINDOWS = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
HUNYUAN_ATTENTION = {"use_qk_norm": True, "use_cla": False}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
SHARED_EXPERT = {**EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 32}

GEMMA4 = {
    **WINDOWS,
    "tie_word_embeddings": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "attention_k_eq_v": False,
    "global_head_dim": 16,
    "final_logit_softcapping": 3.0,
}
GEMMA4_KEYS = checkpoints.with_keys(swa_num_key_value_heads=2, num_global_key_value_heads=2)
# SGLang's runner of prefill graphs knows neither Gemma 4's shared keys nor its vision models: it
# counts a layer's attention twice, and gives the stack ids and embeddings at once.
NO_PREFILL_GRAPHS = ("--cuda-graph-backend-prefill", "disabled")

GATED_DELTA_NETS = {
    # Three value heads a key head: SGLang splits the projection in torch.
    "linear_num_value_heads": 6,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
# Published with the distance of the attention layers.
GATED_DELTA_NET_KEYS = checkpoints.with_keys(full_attention_interval=2)
