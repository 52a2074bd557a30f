"""Weights replaced while the server runs: what LED reads of the model stays the model's own."""

from __future__ import annotations

from typing import Any

from led_sglang.patches.hooks import hook
from led_sglang.patches.lm_head import lm_head_shard
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.sampling import serves_led
from led_sglang.patches.stages import samples_here

_UPDATER = "model_executor.model_runner_components.weight_updater.WeightUpdater."


@hook(_UPDATER + "update_weights_from_disk", "AROUND")
@hook(_UPDATER + "update_weights_from_tensor", "AROUND")
def _refuse_what_does_not_fit(
    original: Any, self: Any, *args: Any, **kwargs: Any
) -> tuple[bool, str]:
    """SGLang answers a tensor that no parameter takes by ending its scheduler; where it came from
    disk, by loading it once more when it means to go back."""
    if settings_or_none() is None:
        return original(self, *args, **kwargs)
    model_path = self.model_config.model_path
    try:
        return original(self, *args, **kwargs)
    except Exception as error:
        self.model_config.model_path = model_path  # SGLang has changed it already
        cause = " ".join(str(error).split()) or type(error).__name__
        return False, (
            f"the weights do not fit the model ({cause}); those before it are replaced already: "
            "update all of them again"
        )


@hook(_UPDATER + "update_weights_from_disk", "AFTER")
def _loaded_from_disk(result: Any, self: Any, *_: Any, **__: Any) -> None:
    _check_head(self)


@hook(_UPDATER + "end_weight_update", "AFTER")
def _session_ends(result: Any, self: Any, *_: Any, **__: Any) -> None:
    _check_head(self)


def _check_head(updater: Any) -> None:
    """Every way of loading writes into the parameters that are there.

    Raises:
        RuntimeError: the model's LM head is another tensor now, and LED would read the old one.
    """
    runner = updater.get_model_runner()
    if not serves_led(runner) or not samples_here():
        return
    addresses = [
        None if head.weight is None else head.weight.data_ptr()
        for head in (runner.sampler.methods.head, lm_head_shard(updater.get_model()))
    ]
    if addresses[0] != addresses[1]:
        raise RuntimeError(
            "the weight update has put another LM head into the model, and LED would go on reading "
            "the old one: restart the server on the new weights, or serve with --sampler regular"
        )
