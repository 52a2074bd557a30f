"""Capture of the residual streams h^l through SGLang's own capture-only mode."""

from __future__ import annotations

from typing import Any

from led_sglang.patches.families import CAPTURES
from led_sglang.patches.hooks import hook
from led_sglang.patches.lm_head import causal_lm
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.stream_capture import (
    StreamCollector,
    capture_at_boundaries,
    capture_layer_inputs,
    capture_snapshots,
)
from led_sglang.settings import LaunchRefused

_SETTERS = {"dflash": "set_dflash_layers_to_capture", "eagle3": "set_eagle3_layers_to_capture"}
_WRAPPERS = {
    "boundary": capture_at_boundaries,
    "layer_input": capture_layer_inputs,
    "snapshot": capture_snapshots,
}


def known_architecture(architectures: list[str]) -> str:
    """The one of a model's architectures that the table knows and does not refuse.

    Args:
        architectures: of the model's config.json.

    Raises:
        LaunchRefused: the table refuses it, or knows none of them.
    """
    name = next((a for a in architectures if a in CAPTURES), None)
    if name is None:
        named = ", ".join(architectures) or "a model whose config names no architecture"
        raise LaunchRefused(_refusal(named, "LED does not know how its layers are built"))
    if CAPTURES[name].method == "refused":
        raise LaunchRefused(_refusal(name, CAPTURES[name].note))
    return name


def _refusal(name: str, reason: str | None) -> str:
    return (
        f"LED cannot capture the layers of {name}: {reason}; serve another model (docs/models.md "
        "lists them), or start without LED (--sampler regular)"
    )


@hook(
    "model_executor.model_runner_components.attention_backend_setup."
    "configure_aux_hidden_state_capture",
    "AROUND",
)
def _configure(original: Any, **arguments: Any) -> None:
    settings = settings_or_none()
    layer_ids = arguments["dflash_target_layer_ids"]
    if settings is None or not settings.captured or not arguments["dflash_use_aux_hidden_state"]:
        original(**arguments)
        return
    with ending_with_a_sentence():
        install(arguments["model"], settings.architecture, settings.num_layers, list(layer_ids))


def install(model: Any, architecture: str, num_layers: int, layer_ids: list[int]) -> None:
    """Make a model hand out the outputs of some layers with its logits.

    Args:
        model: a loaded SGLang model.
        architecture: its key in the table.
        num_layers: L of its config, drafting layers not counted.
        layer_ids: 0-based, ascending; -1 is the embeddings.

    Raises:
        LaunchRefused: the model is not built as the table says.
    """
    method = CAPTURES[architecture].method
    # Every way reads before layer i the stream that left layer i - 1.
    wanted = [layer_id + 1 for layer_id in layer_ids]
    try:
        language_model = causal_lm(model)
        layers = language_model.model.layers
        if len(layers) != num_layers:
            raise AttributeError(f"{len(layers)} layers where its config says {num_layers}")
        if method in _SETTERS:
            getattr(language_model, _SETTERS[method])(list(layer_ids))
        else:
            stack = language_model.model
            collector = StreamCollector(stack, language_model.logits_processor, wanted)
            _WRAPPERS[method](layers, collector)
    except AttributeError as error:
        reason = f"SGLang builds it in another way than LED knows ({error})"
        raise LaunchRefused(_refusal(architecture, reason)) from None
    if method in _SETTERS:
        marked = getattr(language_model.model, "layers_to_capture", None)
        if marked is None or sorted(marked) != wanted:
            reason = f"{_SETTERS[method]} marks layers {marked} where LED needs {wanted}"
            raise LaunchRefused(_refusal(architecture, reason))
