"""What the capture table relies on in SGLang's classes, and what it says where that is not so."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from led_sglang.patches.capture import install, known_architecture
from led_sglang.patches.families import CAPTURES
from led_sglang.settings import LaunchRefused

MODULES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Phi3ForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v2",
    "DeepseekV32ForCausalLM": "deepseek_v2",
    "GptOssForCausalLM": "gpt_oss",
    "Glm4MoeForCausalLM": "glm4_moe",
    "MiMoV2ForCausalLM": "mimo_v2",
    "MiMoV2FlashForCausalLM": "mimo_v2",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "NemotronHForCausalLM": "nemotron_h",
}
SETTERS = {"dflash": "set_dflash_layers_to_capture", "eagle3": "set_eagle3_layers_to_capture"}


class Stack:
    """A decoder stack; some models' setters hand over to their stack's."""

    def __init__(self, layers: int) -> None:
        self.layers = [SimpleNamespace() for _ in range(layers)]
        self.layers_to_capture: Any = []

    def set_dflash_layers_to_capture(self, layers: list[int]) -> None:
        self.layers_to_capture = layers

    set_eagle3_layers_to_capture = set_dflash_layers_to_capture


def model_with_setter_of(architecture: str, layers: int) -> Any:
    """A hollow model with the real setter of SGLang's class."""
    module = importlib.import_module(f"sglang.srt.models.{MODULES[architecture]}")
    setter = SETTERS[CAPTURES[architecture].method]
    hollow = type(architecture, (), {setter: getattr(getattr(module, architecture), setter)})()
    last = SimpleNamespace(pp_group=SimpleNamespace(is_last_rank=True))
    hollow.pp_group, hollow.model = last.pp_group, Stack(layers)
    hollow.config = SimpleNamespace(num_hidden_layers=layers)
    if hasattr(module, "get_parallel"):
        mock.patch.object(module, "get_parallel", return_value=last).start()
    return hollow


@pytest.fixture(autouse=True)
def _undo_patches() -> Any:
    yield
    mock.patch.stopall()


def test_every_setter_has_its_test() -> None:
    with_setter = {name for name, capture in CAPTURES.items() if capture.method in SETTERS}
    assert with_setter - {n for n in CAPTURES if "ConditionalGeneration" in n} == set(MODULES)


# The eagle3 setters of some models number differently where the first id is 1 or the last is L.
@pytest.mark.parametrize("ids", [[1, 2, 3], [4, 5, 10], [-1, 0, 10]])
@pytest.mark.parametrize("architecture", MODULES)
def test_setter_marks_the_layer_behind(architecture: str, ids: list[int]) -> None:
    model = model_with_setter_of(architecture, layers=12)
    install(model, architecture, 12, ids)
    assert sorted(model.model.layers_to_capture) == [i + 1 for i in ids]


@pytest.mark.parametrize("architecture", MODULES)
def test_setter_that_numbers_otherwise_is_refused(architecture: str) -> None:
    model = model_with_setter_of(architecture, layers=12)
    setter = SETTERS[CAPTURES[architecture].method]
    off_by_one = getattr(model, setter)
    setattr(model, setter, lambda ids: off_by_one([i - 1 for i in ids]))
    with pytest.raises(LaunchRefused, match=r"marks layers .4, 5. where LED needs \[5, 6\]"):
        install(model, architecture, 12, [4, 5])


def test_drafting_layers_counted_as_layers_are_refused() -> None:
    model = model_with_setter_of("LlamaForCausalLM", layers=13)
    with pytest.raises(LaunchRefused, match="13 layers where its config says 12"):
        install(model, "LlamaForCausalLM", 12, [4, 5])


@pytest.mark.parametrize("method", ["dflash", "eagle3", "boundary", "layer_input"])
def test_model_built_otherwise_is_refused(method: str) -> None:
    name = next(n for n, capture in CAPTURES.items() if capture.method == method)
    model = SimpleNamespace(model=SimpleNamespace(layers=[SimpleNamespace()] * 4))
    with pytest.raises(LaunchRefused, match=f"cannot capture the layers of {name}: SGLang builds"):
        install(model, name, 4, [1, 2])


REFUSED = sorted(name for name, capture in CAPTURES.items() if capture.method == "refused")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_family_says_why(name: str) -> None:
    reason = CAPTURES[name].note
    assert reason
    with pytest.raises(LaunchRefused) as refusal:
        known_architecture([name])
    message = str(refusal.value)
    assert name in message
    assert reason in message
    assert "--sampler regular" in message


@pytest.mark.parametrize("architectures", [["OPTForCausalLM"], ["LlamaForCausalLMEagle3"], []])
def test_unknown_architecture_is_refused(architectures: list[str]) -> None:
    with pytest.raises(LaunchRefused, match="LED does not know how its layers are built"):
        known_architecture(architectures)
