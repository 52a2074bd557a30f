"""Capture of the residual streams h^l through SGLang's own capture-only mode."""

from __future__ import annotations

from typing import Any

from led_sglang.patches.hooks import hook
from led_sglang.patches.server_args import settings_or_none
from led_sglang.patches.touched import MODEL_REGISTRY, complaint, missing

from led_sglang.settings import LaunchRefused

# In the order of preference. dflash ids name a layer's output in every model; eagle3's mostly do.
_SETTERS = ("set_dflash_layers_to_capture", "set_eagle3_layers_to_capture")

# Looked up without importing SGLang's model zoo, which takes the launching process many seconds.
_CAPTURED_FAMILIES = frozenset(
    {
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "LlamaForCausalLM",
    }
)


def refuse_unknown_family(architectures: list[str]) -> None:
    """Check that SGLang's model class has a setter for captured layers.

    Raises:
        LaunchRefused: it has none, or SGLang does not know the architecture.
    """
    if set(architectures) & _CAPTURED_FAMILIES:
        return
    problems = missing([MODEL_REGISTRY])
    if problems:
        raise LaunchRefused(complaint(problems))
    from sglang.srt.models.registry import ModelRegistry

    model_class, name = ModelRegistry.resolve_model_cls(architectures)
    if not any(hasattr(model_class, setter) for setter in _SETTERS):
        raise LaunchRefused(_no_capture(name))


def _no_capture(name: str) -> str:
    return (
        f"LED cannot capture the layers of {name}: SGLang's model class has neither "
        f"{' nor '.join(_SETTERS)}; serve another model, or start without LED (--sampler regular)"
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
    model = arguments["model"]
    name = type(model).__name__
    setter = next((s for s in _SETTERS if hasattr(model, s)), None)
    if setter is None:
        raise LaunchRefused(_no_capture(name))
    getattr(model, setter)(list(layer_ids))
    # Every known model captures before layer i the stream that left layer i - 1.
    expected = [layer_id + 1 for layer_id in layer_ids]
    marked = _layers_to_capture(model)
    if marked is None or sorted(marked) != expected:
        raise LaunchRefused(
            f"{name}.{setter} marks layers {marked} where LED needs {expected}: its numbering is "
            "not the one LED knows; serve another model, or start without LED (--sampler regular)"
        )


def _layers_to_capture(model: Any) -> list[int] | None:
    """The list the setter left on the decoder stack, wherever the model keeps its stack."""
    for module in model.modules():
        marked = getattr(module, "layers_to_capture", None)
        if marked:
            return list(marked)
    return None
