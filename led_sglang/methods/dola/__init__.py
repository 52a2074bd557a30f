"""DoLa: decoding by contrasting layers (docs/method.md#dola)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from led_sglang.methods.base import LoadedModel, Method
from led_sglang.methods.dola.params import DEFAULT_LAYERS, DolaParams
from led_sglang.settings import ServerSettings

if TYPE_CHECKING:
    from led_sglang.methods.dola.sampler import DolaLogits


class Dola(Method):
    """Replaces a row's logits by their contrast with an early layer's; the engine samples."""

    samplers = ("dola",)
    params = DolaParams

    def parse(self, sampler: str, group: Mapping[str, Any], settings: ServerSettings) -> DolaParams:
        # The default too is a name whose layers this server may not have.
        params: DolaParams = super().parse(sampler, {"layers": DEFAULT_LAYERS, **group}, settings)
        return params

    def bind(self, model: LoadedModel, state: None) -> DolaLogits:
        from led_sglang.methods.dola.sampler import DolaLogits

        return DolaLogits(model)
