"""Speculative decoding at launch: what LED verifies exactly, and what is refused."""

from __future__ import annotations

import os
from typing import Any

from led_sglang.launch_options import flag_of
from led_sglang.methods.soft_thinking.params import uses_soft
from led_sglang.patches.compatibility import refuse

# By SGLang's resolved names; NEXTN is EAGLE there.
_SHOWN = ("NGRAM",)
_WIRED = ("STANDALONE", "EAGLE", "EAGLE3")

_UNEXACT = "drafts would be accepted that LED did not draw"
_UNSHOWN = "no test has shown LED's tokens right with it under speculative decoding"
# Flags by their fields, each with the reason.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("speculative_use_rejection_sampling", _UNEXACT),
    ("speculative_use_block_verification", _UNEXACT),
    ("speculative_adaptive", _UNSHOWN),
    ("enable_multi_layer_eagle", _UNSHOWN),
    (
        "enable_custom_logit_processor",
        "SGLang applies no custom logit processor to the nodes of a draft",
    ),
    (
        "enable_deterministic_inference",
        "behind a thought its sampler draws by rank among all tokens, which the nodes of a draft "
        "would not repeat",
    ),
)
_THRESHOLDS = ("speculative_accept_threshold_single", "speculative_accept_threshold_acc")
_SIMULATION = "SGLANG_SIMULATE_ACC_LEN"


def refuse_inexact_speculation(cfg: Any, enabled: tuple[str, ...]) -> str | None:
    """Check SGLang's resolved flags of speculative decoding.

    Args:
        cfg: view with the resolved fields of `ServerArgs`.
        enabled: the samplers that requests may name.

    Returns:
        A notice to print, where LED is wired and not proven.

    Raises:
        LaunchRefused: names the flag, why LED cannot hold with it, and what to do.
    """
    algorithm = cfg.speculative_algorithm
    if algorithm is None:
        return None
    named = f"--speculative-algorithm {algorithm}"
    if algorithm not in (*_SHOWN, *_WIRED):
        refuse(
            named,
            "it verifies drafts where LED cannot draw its own token at each of them; LED does with "
            "NGRAM, STANDALONE, EAGLE, EAGLE3 and NEXTN",
        )
    if uses_soft(enabled):
        refuse(
            named,
            "a soft method's next input is a mixture, and drafts are tokens",
            "leave the soft methods out of --enable-samplers, or drop the flag",
        )
    for field, reason in _REFUSED:
        if getattr(cfg, field):
            refuse(f"{flag_of(field)} beside {named}", reason)
    for field in _THRESHOLDS:
        if getattr(cfg, field) < 1.0:
            refuse(f"{flag_of(field)} below 1", _UNEXACT)
    if float(os.environ.get(_SIMULATION) or -1) > 0:
        refuse(f"the environment variable {_SIMULATION}", _UNEXACT, "unset it")
    if cfg.disaggregation_mode != "null":
        refuse(f"--disaggregation-mode {cfg.disaggregation_mode} beside {named}", _UNSHOWN)
    if cfg.enable_dp_attention or cfg.attn_dp_size > 1:
        refuse(f"attention data parallelism beside {named}", _UNSHOWN)
    if algorithm in _WIRED:
        return f"LED under {named} is wired and not proven: its drafter needs a GPU"
    return None
