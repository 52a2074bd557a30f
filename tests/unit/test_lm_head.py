"""Which LM heads are read, and which are called through SGLang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod
from torch import Tensor

from led_sglang.patches.lm_head import causal_lm, decoder_stack, final_norm, lm_head_shard

VOCAB, HIDDEN = 11, 4


class Doubled:
    """A quantisation whose weight is floating point and is not the one that multiplies."""

    def apply(self, layer: Any, x: Tensor, bias: Any = None) -> Tensor:
        return 2.0 * x @ layer.weight.T


def model_of(**head: Any) -> Any:
    """A model with SGLang's logits processor, as far as it computes logits."""
    processor: Any = LogitsProcessor.__new__(LogitsProcessor)
    processor.__dict__ |= {
        "vocab_size": VOCAB,
        "logit_scale": None,
        "final_logit_softcapping": None,
        "rl_on_policy_target": None,
        "use_fp32_lm_head": False,
        "use_fp32_lm_head_output": False,
    }
    weight = torch.arange(VOCAB * HIDDEN).view(VOCAB, HIDDEN).to(torch.bfloat16)
    return SimpleNamespace(
        logits_processor=processor,
        lm_head=SimpleNamespace(weight=weight, **head),
        config=SimpleNamespace(),
    )


def test_a_plain_head_is_read() -> None:
    for head in ({}, {"quant_method": None}, {"quant_method": UnquantizedEmbeddingMethod()}):
        model = model_of(**head)
        shard = lm_head_shard(model)
        assert shard.weight is model.lm_head.weight
        assert shard.project is None


def test_a_floating_point_weight_with_a_quantisation_that_applies_is_called() -> None:
    model = model_of(quant_method=Doubled())
    shard = lm_head_shard(model)
    hidden = torch.ones(3, HIDDEN, dtype=torch.bfloat16)
    assert shard.weight is None
    assert shard.project is not None
    assert torch.equal(shard.project(hidden), 2.0 * hidden @ model.lm_head.weight.T)


@pytest.mark.parametrize("mark", ["use_intel_amx_backend", "apply_lora"])
def test_a_packed_or_wrapped_weight_is_not_read(mark: str) -> None:
    assert lm_head_shard(model_of(**{mark: True})).weight is None


def halved(hidden: Tensor) -> Tensor:
    return hidden / 2


def halved_beside_a_residual(hidden: Tensor, residual: Any = None) -> tuple[Tensor, Any]:
    return hidden / 2, residual


@pytest.mark.parametrize("name", ["norm", "norm_f", "embedding_norm", "final_layernorm"])
@pytest.mark.parametrize("norm", [halved, halved_beside_a_residual])
def test_the_final_norm_is_one_tensor_whatever_its_name_and_result(name: str, norm: Any) -> None:
    model = model_of()
    model.model = SimpleNamespace(**{name: norm})
    assert torch.equal(final_norm(model)(torch.ones(3, HIDDEN)), torch.full((3, HIDDEN), 0.5))


def test_a_model_without_a_final_norm_is_named() -> None:
    model = model_of()
    model.model = SimpleNamespace()
    with pytest.raises(AttributeError, match="has no final norm"):
        final_norm(model)


def test_the_part_that_decodes_has_a_logits_processor() -> None:
    inner = model_of()
    assert causal_lm(SimpleNamespace(language_model=inner)) is inner
    assert causal_lm(SimpleNamespace(llm=inner)) is inner
    bare = model_of()  # Gemma 4: the stack itself under the name of a language model
    bare.language_model = bare.model = SimpleNamespace(layers=[])
    assert causal_lm(bare) is bare
    assert decoder_stack(bare) is bare.model
    nested = model_of()
    nested.model = SimpleNamespace(language_model=bare.model)
    assert decoder_stack(nested) is bare.model
