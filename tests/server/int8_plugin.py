"""Quantised weights that a CPU can multiply by: int8, one scale for each output row, plain torch.

SGLang's own are GPU kernels; they come into the layers and the LM head by the same way.
"""

from __future__ import annotations

from typing import Any

import torch

NAME = "rowwise_int8"


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [out, in] and its scales [out, 1]."""
    scale = weight.abs().amax(1, keepdim=True) / 127.0
    return (weight / scale).round().to(torch.int8), scale


def register() -> None:
    from sglang.srt.arg_groups.choices import add_quantization_method_choices
    from sglang.srt.layers.quantization import QUANTIZATION_METHODS

    add_quantization_method_choices([NAME])
    QUANTIZATION_METHODS[NAME] = _config_class()


def _config_class() -> type:
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.layers.quantization.base_config import QuantizationConfig
    from sglang.srt.layers.quantization.unquant import (
        UnquantizedEmbeddingMethod,
        UnquantizedLinearMethod,
    )
    from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead

    class Rowwise:
        """Loads the float weight, keeps the int8 one."""

        def process_weights_after_loading(self, layer: Any) -> None:
            weight, scale = quantised(layer.weight.data)
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.weight_scale = torch.nn.Parameter(scale, requires_grad=False)

        def apply(self, layer: Any, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
            weight = layer.weight.to(x.dtype) * layer.weight_scale
            return torch.nn.functional.linear(x, weight, bias)

    class RowwiseLinear(Rowwise, UnquantizedLinearMethod):
        pass

    class RowwiseHead(Rowwise, UnquantizedEmbeddingMethod):
        pass

    class RowwiseConfig(QuantizationConfig):
        def get_name(self) -> str:
            return NAME

        def get_supported_act_dtypes(self) -> list[torch.dtype]:
            return [torch.float32]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
            return cls()

        def get_quant_method(self, layer: Any, prefix: str) -> Any:
            if isinstance(layer, LinearBase):
                return RowwiseLinear()
            return RowwiseHead() if isinstance(layer, ParallelLMHead) else None

        def get_scaled_act_names(self) -> list[str]:
            return []

    return RowwiseConfig
