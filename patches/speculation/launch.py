"""Speculative decoding at launch: what LED verifies exactly, and what is refused."""

from __future__ import annotations

import os
from typing import Any

from led_sglang.launch_options import flag_of
from led_sglang.methods.soft_thinking.params import uses_soft
from led_sglang.patches.compatibility import refuse
from led_sglang.settings import LaunchRefused

# By SGLang's resolved names; NEXTN is EAGLE there.
_SHOWN = ("NGRAM", "STANDALONE")
_WIRED = ("EAGLE", "EAGLE3")

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
# Draft models with an embedding and a head of their own, and whether each id has to be the same
# token to both: an EAGLE3 head drafts from fewer, which it translates.
_OWN_VOCABULARY = {"STANDALONE": True, "EAGLE3": False}


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


def refuse_another_vocabulary(cfg: Any, vocab_size: int) -> None:
    """Check a draft model's vocabulary, before SGLang has loaded two models to find the same out.

    Args:
        cfg: view with the resolved fields of `ServerArgs`.
        vocab_size: of the model that verifies.

    Raises:
        LaunchRefused: names both sizes, and what to do.
    """
    same = _OWN_VOCABULARY.get(cfg.speculative_algorithm)
    path = cfg.speculative_draft_model_path
    if same is None or path in (None, cfg.model_path):
        return
    from sglang.srt.utils.hf_transformers import get_config, get_hf_text_config

    revision = cfg.speculative_draft_model_revision
    config = get_config(path, trust_remote_code=cfg.trust_remote_code, revision=revision)
    drafted: int = get_hf_text_config(config).vocab_size
    if drafted > vocab_size or (same and drafted != vocab_size):
        raise LaunchRefused(
            f"the draft model {path} has a vocabulary of {drafted} tokens, and the model one of "
            f"{vocab_size}: its drafts would be other tokens to the model, or none; name a draft "
            "model of the same vocabulary (--speculative-draft-model-path)"
        )
