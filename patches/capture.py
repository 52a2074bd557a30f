"""Capture of the residual streams h^l through SGLang's own capture-only mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from led_sglang.patches.captured_streams import share_columns
from led_sglang.patches.families import CAPTURES, Capture
from led_sglang.patches.hooks import hook
from led_sglang.patches.lm_head import causal_lm, decoder_stack
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import (
    CONFIG_ERRORS,
    ending_with_a_sentence,
    unreadable_checkpoint,
)
from led_sglang.patches.setters import SETTERS, SetterCapture
from led_sglang.patches.stages import from_the_last_stage
from led_sglang.patches.stream_capture import (
    StreamCollector,
    capture_at_boundaries,
    capture_layer_inputs,
    capture_snapshots,
    capture_whole_inputs,
)
from led_sglang.settings import LaunchRefused, ServerSettings

WRAPPERS = {
    "boundary": capture_at_boundaries,
    "layer_input": capture_layer_inputs,
    "snapshot": capture_snapshots,
    "whole_input": capture_whole_inputs,
}
# For architectures that the table does not know, in this order: SGLang's own ways first.
UNPROVEN_METHODS = (*SETTERS, "boundary", "layer_input", "whole_input")

Captured = SetterCapture | StreamCollector
# SGLang runs a model that it has no class for by transformers' layers.
_FALLBACK = "sglang.srt.models.transformers"
# Of SGLang's models: what this file adds to them.
_ATTRIBUTE = "led_capture"


def known_architecture(architectures: list[str], unproven: bool = False) -> str:
    """The one of a model's architectures that the table knows and does not refuse.

    Args:
        architectures: of the model's config.json.
        unproven: whether one that the table does not know will do: its first name then.

    Raises:
        LaunchRefused: the table refuses it, or knows none of them.
    """
    name = next((a for a in architectures if a in CAPTURES), None)
    if name is None and unproven and architectures:
        return architectures[0]
    if name is None:
        named = ", ".join(architectures) or "a model whose config names no architecture"
        reason = "LED does not know how its layers are built"
        raise LaunchRefused(refusal(named, reason, "have it tried (--led-unproven-architecture)"))
    if CAPTURES[name].method == "refused":
        raise LaunchRefused(refusal(name, CAPTURES[name].note))
    return name


def refusal(name: str, reason: str | None, other_way: str | None = None) -> str:
    """The sentence with which a launch ends, and what to do instead."""
    ways = ["serve another model (docs/models.md lists them)"]
    ways += [other_way] if other_way else []
    return (
        f"LED cannot capture the layers of {name}: {reason}; {', '.join(ways)}, or start without "
        "LED (--sampler regular)"
    )


@hook("model_executor.model_runner.ModelRunner.load_model", "AROUND")
def _load(original: Any, self: Any) -> None:
    settings = settings_or_none()
    if settings is None:
        original(self)
        return
    with ending_with_a_sentence():
        if settings.unproven:
            _refuse_fallback(self.model_config, settings.architecture)
        try:
            original(self)
        except CONFIG_ERRORS as error:
            raise unreadable_checkpoint(error) from None


def _refuse_fallback(model_config: Any, architecture: str) -> None:
    """Refuse what SGLang would run by transformers' layers, without a word of its own."""
    # Imports every model's class: SGLang has done so in this process, and not where it launches.
    from sglang.srt.model_loader.utils import get_model_architecture

    try:
        model_class, _ = get_model_architecture(model_config)
    except ValueError as error:
        raise LaunchRefused(refusal(architecture, str(error).splitlines()[0])) from None
    if model_class.__module__ == _FALLBACK:
        reason = "SGLang has no class for it and falls back to transformers' layers"
        raise LaunchRefused(refusal(architecture, reason))


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

    def install_here() -> None:
        model, architecture, wanted = arguments["model"], settings.architecture, list(layer_ids)
        if arguments["eagle_use_aux_hidden_state"]:
            original(**{**arguments, "dflash_use_aux_hidden_state": False})
            wanted = share_columns(model, wanted, _drafters_layers(model, settings))
            # The proof at launch looks at LED's own layers alone: it leaves this capture out.
            install(model, architecture, settings.num_layers, wanted)
            return
        if settings.unproven:  # the way is chosen once the model can run
            capture = _first_offered(model, architecture, settings.num_layers, wanted)
        else:
            capture = install(model, architecture, settings.num_layers, wanted)
        keep(model, capture)

    with ending_with_a_sentence():
        from_the_last_stage(install_here)


def _drafters_layers(model: Any, settings: ServerSettings) -> list[int]:
    """Layers (0-based, by their outputs) that SGLang has just marked for an EAGLE3 drafter.

    Raises:
        LaunchRefused: they cannot be told in this family.
    """
    marked = getattr(decoder_stack(model), "layers_to_capture", None)
    row = None if settings.unproven else CAPTURES[settings.architecture]
    if not marked or row is None or row.method not in SETTERS or row.marks != "before":
        reason = "it does not tell which of its layers an EAGLE3 drafter reads"
        raise LaunchRefused(refusal(settings.architecture, reason))
    return [layer - 1 for layer in marked]


def keep(model: Any, capture: Captured) -> None:
    """Note what is installed in a model, for `capture_of`."""
    setattr(model, _ATTRIBUTE, capture)


def capture_of(model: Any) -> Captured | None:
    """What captures the layers of a model, in this process."""
    capture: Captured | None = getattr(model, _ATTRIBUTE, None)
    return capture


def offered(
    model: Any, num_layers: int, layer_ids: list[int]
) -> Iterator[tuple[str, Captured | str]]:
    """The ways that an unknown architecture is tried by, each installed, or why it cannot be.

    Whoever takes the next one has removed the one before.
    """
    for method in UNPROVEN_METHODS:
        try:
            yield method, capture_by(method, model, num_layers, layer_ids)
        except (AttributeError, ValueError) as error:
            yield method, f"not offered ({error})"


def _first_offered(
    model: Any, architecture: str, num_layers: int, layer_ids: list[int]
) -> Captured:
    """What SGLang's own preparations run with, before the ways are tried in earnest."""
    refused = []
    for method, capture in offered(model, num_layers, layer_ids):
        if not isinstance(capture, str):
            return capture
        refused.append(f"{method}: {capture}")
    raise LaunchRefused(refusal(architecture, "; ".join(refused)))


def install(model: Any, architecture: str, num_layers: int, layer_ids: list[int]) -> Captured:
    """Make a model hand out the outputs of some layers with its logits.

    Args:
        model: a loaded SGLang model, or its last pipeline stage.
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
        raise LaunchRefused(refusal(architecture, reason)) from None
    except ValueError as error:
        reason = f"{SETTERS[row.method]} refuses its layers {layer_ids} ({error})"
        raise LaunchRefused(refusal(architecture, reason)) from None
    if isinstance(capture, SetterCapture):
        wanted = _marks(row, layer_ids)
        marked = capture.marked()
        if wanted not in marked:
            shown = " and ".join(map(str, marked)) or None
            reason = f"{SETTERS[row.method]} marks layers {shown} where LED needs {wanted}"
            raise LaunchRefused(refusal(architecture, reason))
    return capture


def capture_by(method: str, model: Any, num_layers: int, layer_ids: list[int]) -> Captured:
    """Capture by this method of the table, see `install`.

    Raises:
        AttributeError: the model does not offer it.
        ValueError: the model's setter does not take these layers.
    """
    language_model, stack = causal_lm(model), decoder_stack(model)
    if len(stack.layers) != num_layers:
        raise AttributeError(f"{len(stack.layers)} layers where its config says {num_layers}")
    start = getattr(stack, "start_layer", 0)
    if layer_ids[0] + 1 < start:
        raise AttributeError(f"its last pipeline stage begins at layer {start}, and not earlier")
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
