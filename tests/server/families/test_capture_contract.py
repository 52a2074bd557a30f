"""What the capture table relies on in SGLang's classes, and what it says where that is not so."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from led_sglang.patches.capture import WRAPPERS, install, known_architecture
from led_sglang.patches.families import CAPTURES, Capture, Method
from led_sglang.patches.setters import SETTERS
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
    "Qwen3_5ForCausalLM": "qwen3_5_text",
    "Qwen3_5MoeForCausalLM": "qwen3_5_text",
    "Gemma4ForCausalLM": "gemma4_causal",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "Ministral3ForCausalLM": "ministral3",
    "LagunaForCausalLM": "laguna",
    "ExaoneMoEForCausalLM": "exaone_moe",
    "ExaoneMoeForCausalLM": "exaone_moe",
    "GlmMoeDsaForCausalLM": "glm4_moe",
    "MiniMaxM3SparseForCausalLM": "minimax_m3",
    "MistralLarge3ForCausalLM": "mistral_large_3",
    "NemotronHPuzzleForCausalLM": "nemotron_h",
    "BailingMoeForCausalLM": "bailing_moe",
    "BailingMoEForCausalLM": "bailing_moe",
    "BailingMoeV2ForCausalLM": "bailing_moe",
    "Lfm2ForCausalLM": "lfm2",
    "Lfm2MoeForCausalLM": "lfm2_moe",
    "LongcatFlashForCausalLM": "longcat_flash",
    "InternLM3ForCausalLM": "llama",
    "Glm5NextForConditionalGeneration": "glm5_next",
}
# Their setters take no embeddings, and mark the layers behind which they read.
READS_AFTER = {"BeamForCausalLM": "beam", "MuseSparkForConditionalGeneration": "muse_spark"}


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
    vision = {n for n in CAPTURES if "ConditionalGeneration" in n or n.startswith("NemotronH_")}
    assert with_setter - vision - set(READS_AFTER) == set(MODULES) - vision


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


class AddingLayer:
    """Adds one to the stream, however a class passes its arguments."""

    @staticmethod
    def self_attn_input_norm(stream: Tensor) -> Tensor:
        return stream

    def __init__(self, outputs: int = 1) -> None:
        self.outputs = outputs

    def __call__(self, positions: Any, hidden_states: Tensor, *rest: Any) -> Any:
        stream = hidden_states + 1
        return stream if self.outputs == 1 else (stream, stream)


def streams_of(architecture: str, module_name: str, method: str, ids: list[int]) -> list[float]:
    """What SGLang's own stack hands out behind its own setter, of layers that count: h^l is l."""
    module = importlib.import_module(f"sglang.srt.models.{module_name}")
    name = {"beam": "BeamModel", "muse_spark": "MuseSpark1xModel"}.get(module_name)
    kind = getattr(module, name or "MuseGlimmerModel")
    outputs = 2 if module_name == "muse_spark" else 1
    stack = SimpleNamespace(
        pp_group=SimpleNamespace(is_first_rank=True, is_last_rank=True, world_size=1),
        layers=[AddingLayer(outputs) for _ in range(12)],
        layers_to_capture=[],
        start_layer=0,
        end_layer=12,
        has_full_attention=False,
        fuse_layers=False,
        embed_norm=None,
        norm=lambda hidden: hidden,
        residual_dtype=torch.float32,
        operator_dtype=torch.float32,
    )
    causal = next(
        c
        for c in vars(module).values()
        if hasattr(c, SETTERS[method]) and c.__module__ == module.__name__
    )
    hollow = type(architecture, (), {SETTERS[method]: getattr(causal, SETTERS[method])})()
    inner = SimpleNamespace(language_model=stack, layers=stack.layers)
    hollow.model = inner if module_name == "muse_spark" else stack
    hollow.config = SimpleNamespace(num_hidden_layers=12)
    if module_name == "muse_spark":
        mock.patch.object(module.layernorm_sp, "runs_sp", return_value=False).start()
        mock.patch.object(module, "get_forward").start()
    install(hollow, architecture, 12, ids)
    batch = SimpleNamespace(forward_mode=None)
    _, streams = kind.forward(stack, None, None, batch, input_embeds=torch.zeros(2, 3))
    return [float(stream[0, 0]) for stream in streams]


@pytest.mark.parametrize("architecture", READS_AFTER)
def test_setter_that_marks_the_layer_itself_reads_behind_it(architecture: str) -> None:
    ids = [0, 3, 10]
    assert streams_of(architecture, READS_AFTER[architecture], "dflash", ids) == [1, 4, 11]
    with (
        mock.patch.dict(CAPTURES, {architecture: Capture("dflash")}),
        pytest.raises(LaunchRefused, match=r"marks layers .0, 3, 10. where LED needs .1, 4, 11"),
    ):
        streams_of(architecture, READS_AFTER[architecture], "dflash", ids)
    with pytest.raises(LaunchRefused, match=r"refuses its layers \[-1, 3\]"):
        streams_of(architecture, READS_AFTER[architecture], "dflash", [-1, 3])


def test_setter_that_marks_the_layer_itself_and_reads_before_it_is_not_used() -> None:
    name, setter = "MuseGlimmerForCausalLM", Capture("dflash")
    assert CAPTURES[name].method == "layer_input"
    with (
        mock.patch.dict(CAPTURES, {name: setter}),
        pytest.raises(LaunchRefused, match="marks layers"),
    ):
        streams_of(name, "muse_glimmer", "dflash", [0, 3])
    with mock.patch.dict(CAPTURES, {name: Capture("dflash", marks="after")}):
        assert streams_of(name, "muse_glimmer", "dflash", [0, 3]) == [0, 3]  # not h^1 and h^4


@pytest.mark.parametrize("architecture", MODULES)
def test_marks_are_taken_off_and_put_back(architecture: str) -> None:
    model = model_with_setter_of(architecture, layers=12)
    model.capture_aux_hidden_states = False
    capture = install(model, architecture, 12, [4, 5])
    with capture.paused():
        assert not model.model.layers_to_capture
        assert not model.capture_aux_hidden_states
        assert not any(getattr(x, "_is_layer_to_capture", False) for x in model.model.layers)
    assert sorted(model.model.layers_to_capture) == [5, 6]


def test_glm_5_next_hands_out_what_its_head_reads_of_its_streams() -> None:
    """Both are the mean: SGLang's setter against transformers' head."""
    module = importlib.import_module("sglang.srt.models.glm5_next")
    heads = importlib.import_module("transformers.models.glm5_next.modeling_glm5_next")
    model = model_with_setter_of("Glm5NextForConditionalGeneration", layers=12)
    capture = install(model, "Glm5NextForConditionalGeneration", 12, [4, 5])
    assert model.model.layers_to_capture == [5, 6]
    model.model.config = SimpleNamespace(mhc=True, hc_mult=4)
    streams = torch.randn(3, 4 * 8, generator=torch.Generator().manual_seed(0))
    handed_out = module.Glm5NextModel._prepare_aux_hidden_state(model.model, streams)
    read = heads.Glm5NextTextHyperHead()(streams.view(1, 3, 4, 8))[0]
    torch.testing.assert_close(handed_out, read)
    with capture.paused():
        assert not getattr(model.model, "dflash_capture", False)


def test_a_setter_that_gives_up_halfway_leaves_nothing_behind() -> None:
    """As Qwen3-VL's dflash setter: its stack has none to hand the layers to."""
    model = model_with_setter_of("Qwen3MoeForCausalLM", layers=12)
    model.capture_aux_hidden_states = False
    model.model = SimpleNamespace(layers=model.model.layers, layers_to_capture=[])
    with pytest.raises(LaunchRefused, match="has no attribute 'set_dflash_layers_to_capture'"):
        install(model, "Qwen3MoeForCausalLM", 12, [4, 5])
    assert model.capture_aux_hidden_states is False
    assert model.model.layers_to_capture == []


def test_drafting_layers_counted_as_layers_are_refused() -> None:
    model = model_with_setter_of("LlamaForCausalLM", layers=13)
    with pytest.raises(LaunchRefused, match="13 layers where its config says 12"):
        install(model, "LlamaForCausalLM", 12, [4, 5])


@pytest.mark.parametrize("method", ["dflash", "eagle3", *WRAPPERS])
def test_model_built_otherwise_is_refused(method: Method) -> None:
    model = SimpleNamespace(model=SimpleNamespace(layers=[SimpleNamespace()] * 4))
    refusal = "cannot capture the layers of Any: SGLang builds"
    with (
        mock.patch.dict(CAPTURES, {"Any": Capture(method)}),
        pytest.raises(LaunchRefused, match=refusal),
    ):
        install(model, "Any", 4, [1, 2])


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
