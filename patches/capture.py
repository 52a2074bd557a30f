"""Capture of the residual streams h^l through SGLang's own capture-only mode."""

from __future__ import annotations

from typing import Any

from led_sglang.patches.families import CAPTURES, Capture
from led_sglang.patches.hooks import hook
from led_sglang.patches.lm_head import causal_lm, decoder_stack
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.setters import SETTERS, SetterCapture
from led_sglang.patches.stream_capture import (
    StreamCollector,
    capture_at_boundaries,
    capture_layer_inputs,
    capture_snapshots,
    capture_whole_inputs,
)
from led_sglang.settings import LaunchRefused

WRAPPERS = {
    "boundary": capture_at_boundaries,
    "layer_input": capture_layer_inputs,
    "snapshot": capture_snapshots,
    "whole_input": capture_whole_inputs,
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


def install(
    model: Any, architecture: str, num_layers: int, layer_ids: list[int]
) -> SetterCapture | StreamCollector:
    """Make a model hand out the outputs of some layers with its logits.

    Args:
        model: a loaded SGLang model.
        architecture: its key in the table.
        num_layers: L of its config, drafting layers not counted.
        layer_ids: 0-based, ascending; -1 is the embeddings.

    Returns:
        The capture, to be paused or removed.

    Raises:
        LaunchRefused: the model is not built as the table says.
    """
    row = CAPTURES[architecture]
    try:
        capture = capture_by(row.method, model, num_layers, layer_ids)
    except AttributeError as error:
        reason = f"SGLang builds it in another way than LED knows ({error})"
        raise LaunchRefused(_refusal(architecture, reason)) from None
    except ValueError as error:
        reason = f"{SETTERS[row.method]} refuses its layers {layer_ids} ({error})"
        raise LaunchRefused(_refusal(architecture, reason)) from None
    if isinstance(capture, SetterCapture):
        wanted = _marks(row, layer_ids)
        marked = capture.marked()
        if wanted not in marked:
            shown = " and ".join(map(str, marked)) or None
            reason = f"{SETTERS[row.method]} marks layers {shown} where LED needs {wanted}"
            raise LaunchRefused(_refusal(architecture, reason))
    return capture


def capture_by(
    method: str, model: Any, num_layers: int, layer_ids: list[int]
) -> SetterCapture | StreamCollector:
    """Capture by this method of the table, see `install`.

    Raises:
        AttributeError: the model does not offer it.
        ValueError: the model's setter does not take these layers.
    """
    language_model, stack = causal_lm(model), decoder_stack(model)
    if len(stack.layers) != num_layers:
        raise AttributeError(f"{len(stack.layers)} layers where its config says {num_layers}")
    if method in SETTERS:
        return SetterCapture(model, SETTERS[method], layer_ids)
    # These read before layer i the stream that left layer i - 1.
    wanted = [layer_id + 1 for layer_id in layer_ids]
    collector = StreamCollector(stack, language_model.logits_processor, wanted)
    try:
        WRAPPERS[method](stack.layers, collector)
    except AttributeError:
        collector.remove()
        raise
    return collector


def _marks(row: Capture, layer_ids: list[int]) -> list[int]:
    """What the setter has to mark: most classes read before layer i what left layer i - 1."""
    return [layer_id + (row.marks == "before") for layer_id in layer_ids]
