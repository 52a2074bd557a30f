"""SGLang features with which LED would be wrong or silently off: refused at launch."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from led_sglang.launch_options import flag_of
from led_sglang.settings import LaunchRefused

# SGLang calls ROCm "cuda" too.
_DEVICES = ("cuda", "cpu")

_OWN_PART = "each rank would capture its own part of a prompt's tokens only"
_ONE_KERNEL = "one kernel runs all layers, and nothing between them can be captured"
# Flags by their fields, each with the reason.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("enable_watermark", "the watermark forces tokens LED would overwrite"),
    ("enable_two_batch_overlap", "the halves of a batch would be captured apart"),
    ("enable_pdmux", "prefill and decode would share LED's state across streams"),
    ("dllm_algorithm", "diffusion models do not decode token by token"),
    (
        "enable_return_hidden_states",
        "responses would carry LED's captured latents in place of the final hidden states",
    ),
    (
        "enable_return_aux_hidden_states",
        "responses would carry the layers LED captures in place of those asked for",
    ),
    ("enable_layernorm_sp", _OWN_PART),
    ("enable_attn_tp_input_scattered", _OWN_PART),
    ("enable_nvidia_megakernel", _ONE_KERNEL),
    ("enable_amd_monokernel", _ONE_KERNEL),
    (
        "smg_grpc_mode",
        "its front end is another program, which checks no LED parameters and shows no statistics",
    ),
    ("use_ray", "Ray actors do not load SGLang plugins"),
    (
        "enable_pd_role_switch",
        "LED's noise and its first tokens are set up for the role that a server starts in",
    ),
    ("is_embedding", "an embedding model does not decode"),
    ("encoder_only", "an encoder does not decode"),
)


def refuse_incompatible(cfg: Any) -> None:
    """Check SGLang's resolved flags.

    Args:
        cfg: view with the resolved fields of `ServerArgs`.

    Raises:
        LaunchRefused: names the flag, why LED cannot hold with it, and what to do.
    """
    if cfg.device not in _DEVICES:
        raise LaunchRefused(
            f"LED runs on {' and '.join(_DEVICES)} alone, not on --device {cfg.device}; choose one "
            "of them, or start without LED (--sampler regular)"
        )
    for field, reason in _REFUSED:
        if getattr(cfg, field):
            refuse(flag_of(field), reason)
    if cfg.speculative_algorithm and cfg.pp_size > 1:
        refuse(
            "--speculative-algorithm beside --pipeline-parallel-size > 1",
            "no test has shown drafts that are verified on the last of several stages",
            way_out="drop one of them",
        )
    if cfg.attn_cp_size > 1:
        refuse("--attn-cp-size > 1", "the ranks capture different parts of a prompt's tokens each")
    if cfg.dcp_size > 1:
        refuse(
            "--dcp-size > 1",
            "no test has shown the captured layers right where ranks share a prompt's KV cache",
        )
    if cfg.model_impl == "transformers":
        refuse("--model-impl transformers", "those models offer no captured layers")
    if os.environ.get("SGLANG_RUST_SERVER", "").lower() not in ("", "0", "false", "no", "off"):
        refuse(
            "the environment variable SGLANG_RUST_SERVER",
            "its front end checks no LED parameters, seeds no samples and shows no statistics",
            way_out="unset it",
        )
    if cfg.disaggregation_mode != "null" and cfg.pp_size > 1:
        refuse(
            "--disaggregation-mode beside --pipeline-parallel-size > 1",
            "a request's first token would be reported by another stage than the one that sends it",
            way_out="drop one of them",
        )
    # --enable-dp-attention is an older name that SGLang folds into --attn-dp-size.
    if (cfg.enable_dp_attention or cfg.attn_dp_size > 1) and not cfg.enable_dp_lm_head:
        raise LaunchRefused(
            "LED needs --enable-dp-lm-head beside attention data parallelism (--attn-dp-size, "
            "--enable-dp-attention): without it one rank's rows meet every rank's vocabulary shard"
        )
    if cfg.enable_lora and {"lm_head", "all"} & set(cfg.lora_target_modules or ()):
        raise LaunchRefused(
            "LED cannot run with LoRA on lm_head: the latents would need each request's own head; "
            "leave lm_head out of --lora-target-modules"
        )


# The same for the soft methods, whose next input is no token.
_REFUSED_WITH_SOFT: tuple[tuple[str, str], ...] = (
    (
        "enable_mixed_chunk",
        "rows that decode inside a prefill batch would read their token, not their mixture",
    ),
    ("enable_torch_compile", "the traced decode graph would not read the mixtures"),
)


def refuse_incompatible_with_soft(cfg: Any) -> None:
    """Check SGLang's resolved flags against the soft methods; see `refuse_incompatible`."""
    for field, reason in _REFUSED_WITH_SOFT:
        if getattr(cfg, field):
            _refuse_soft(flag_of(field), reason)
    if cfg.pp_size > 1:
        _refuse_soft(
            "--pipeline-parallel-size > 1",
            "their mixtures are made on the last stage and embedded on the first",
        )
    if cfg.enable_dp_attention or cfg.attn_dp_size > 1:
        _refuse_soft(
            "attention data parallelism", "a rank's batch is padded with rows of other requests"
        )
    if cfg.disaggregation_mode != "null":
        _refuse_soft(
            f"--disaggregation-mode {cfg.disaggregation_mode}",
            "a prefill server hands over tokens, and no mixtures",
        )


def _refuse_soft(flag: str, reason: str) -> None:
    raise LaunchRefused(
        f"soft thinking cannot run with {flag} ({reason}); drop the flag, or leave the soft "
        "methods out of --enable-samplers"
    )


def refuse(flag: str, reason: str, way_out: str = "drop the flag") -> NoReturn:
    """End the launch.

    Raises:
        LaunchRefused: always.
    """
    raise LaunchRefused(
        f"LED cannot run with {flag} ({reason}); {way_out}, or start without LED "
        "(--sampler regular)"
    )
