"""Presets: every family is recognised, and a wrong file is refused by name and key."""

from __future__ import annotations

from importlib import resources

import pytest

from led_sglang.presets import Preset, load_presets, parse_preset, pick_preset

GOOD = """\
name: family
match: {model_type: [some_type], name: [some.name]}
think_start: "<a>"
think_end: "</a>"
depth: 8
candidates: 8
sampling: {temperature: 1, top_k: 20}
notes: Where it is from.
"""


@pytest.mark.parametrize(
    ("model_type", "model_name", "family"),
    [
        ("qwen3", "Qwen/Qwen3-4B-Thinking-2507", "qwen3"),
        ("qwen3_moe", "/models/Qwen3-30B-A3B-Thinking-2507", "qwen3_moe"),
        ("qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1_distill"),
        ("llama", "/data/deepseek_r1_distill_llama_8b", "deepseek_r1_distill"),
        ("qwen3", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "deepseek_r1_distill"),
        ("qwen2", "/hub/models--Qwen--QwQ-32B/snapshots/976055f8", "qwq"),
        ("mimo", "XiaomiMiMo/MiMo-7B-RL", "mimo"),
        ("glm4_moe", "zai-org/GLM-4.5-Air", "glm"),
        ("glm4", "zai-org/GLM-Z1-32B-0414", "glm_z1"),
        ("glm4", "THUDM/GLM-4-Z1-9B-0414", "glm_z1"),
        ("gpt_oss", "openai/gpt-oss-20b", "gpt_oss"),
        ("mistral", "mistralai/Magistral-Small-2507", "magistral"),
        ("mistral3", "mistralai/Magistral-Small-2509", "magistral"),
        ("seed_oss", "ByteDance-Seed/Seed-OSS-36B-Instruct", "seed_oss"),
        ("deepseek_v3", "deepseek-ai/DeepSeek-R1-0528", "deepseek_r1"),
        ("deepseek_v32", "deepseek-ai/DeepSeek-V3.2", "deepseek_v32"),
        ("kimi_k2", "moonshotai/Kimi-K2-Thinking", "kimi_k2"),
        ("minimax_m2", "MiniMaxAI/MiniMax-M2", "minimax_m2"),
        ("mimo_v2_flash", "XiaomiMiMo/MiMo-V2-Flash", "mimo_v2"),
        ("nemotron_h", "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron"),
        ("nemotron-nas", "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", "nemotron"),
        ("llama", "nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "nemotron_llama"),
        ("phi3", "microsoft/Phi-4-reasoning-plus", "phi4_reasoning"),
        ("phi3", "microsoft/Phi-4-mini-reasoning", "phi4_reasoning"),
        ("exaone4", "LGAI-EXAONE/EXAONE-4.0-32B", "exaone4"),
        ("ernie4_5_moe", "baidu/ERNIE-4.5-21B-A3B-Thinking", "ernie4_5"),
        ("hunyuan_v1_moe", "tencent/Hunyuan-A13B-Instruct", "hunyuan"),
        ("qwen3_next", "Qwen/Qwen3-Next-80B-A3B-Thinking", "qwen3_next"),
        ("qwen3_5_text", "Qwen/Qwen3.6-27B", "qwen3_5"),
        ("qwen3_5_moe_text", "Qwen/Qwen3.5-397B-A17B", "qwen3_5"),
        ("qwen3_vl_text", "Qwen/Qwen3-VL-8B-Thinking", "qwen3_vl"),
        ("gemma4_text", "google/gemma-4-31B-it", "gemma4"),
        ("hy_v3", "tencent/Hy3", "hy_v3"),
        ("glm4_moe_lite", "zai-org/GLM-4.7-Flash", "glm"),
        ("glm_moe_dsa", "zai-org/GLM-5", "glm"),
        ("glm5_next_text", "zai-org/GLM-5.3-Flash", "glm"),
        ("minimax_m2", "MiniMaxAI/MiniMax-M3", "minimax_m3"),
        ("minimax_m3_vl_text", "/models/minimax_m3", "minimax_m3"),
        ("ministral3", "mistralai/Ministral-3-14B-Reasoning-2512", "ministral"),
        ("exaone_moe", "LGAI-EXAONE/K-EXAONE-236B-A23B", "exaone_moe"),
        ("step3p5", "stepfun-ai/Step-3.5-Flash", "step3p5"),
        ("cohere2", "CohereLabs/command-a-reasoning-08-2025", "cohere2"),
        ("laguna", "poolside/Laguna-XS.2", "laguna"),
        ("bailing_moe_v2", "inclusionAI/Ring-1T", "ling"),
        ("olmo3", "allenai/Olmo-3-32B-Think", "olmo3"),
        ("lfm2", "LiquidAI/LFM2.5-1.2B-Thinking", "lfm2"),
        ("lfm2_moe", "LiquidAI/LFM2.5-8B-A1B", "lfm2"),
        # The name alone or the type alone is not enough for these families.
        ("qwen2", "Qwen/Qwen2.5-7B-Instruct", "default"),
        ("llama", "meta-llama/Llama-3.1-8B", "default"),
        ("phi3", "microsoft/phi-4", "default"),
        ("mistral3", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", "default"),
        ("gemma3", "/finetunes/gemma-distilled-from-deepseek-r1", "default"),
        ("", "", "default"),
    ],
)
def test_family_of_a_model(model_type: str, model_name: str, family: str) -> None:
    assert pick_preset(model_type, model_name).name == family


def test_delimiters_of_the_families() -> None:
    delimiters = {preset.name: (preset.think_start, preset.think_end) for preset in load_presets()}
    think = ("<think>", "</think>")
    others = {
        "gpt_oss": ("<|channel|>analysis<|message|>", "<|end|>"),
        "magistral": ("[THINK]", "[/THINK]"),
        "ministral": ("[THINK]", "[/THINK]"),
        "gemma4": ("<|channel>", "<channel|>"),
        "cohere2": ("<|START_THINKING|>", "<|END_THINKING|>"),
        "minimax_m3": ("<mm:think>", "</mm:think>"),
        "seed_oss": ("<seed:think>", "</seed:think>"),
    }
    assert {name: pair for name, pair in delimiters.items() if pair != think} == others
    assert len(delimiters) == 36


# SGLang's reasoning parser of each family; it has none for the families left out.
PARSERS = {
    "deepseek_r1": "deepseek-r1",
    "deepseek_r1_distill": "deepseek-r1",
    "deepseek_v32": "deepseek-v3",
    "cohere2": "cohere_command4",
    "default": "granite_thinking_parser",
    "exaone_moe": "qwen3",
    "gemma4": "gemma4",
    "glm": "glm45",
    "gpt_oss": "gpt-oss",
    "hunyuan": "hunyuan",
    "hy_v3": "hunyuan",
    "kimi_k2": "kimi_k2",
    "laguna": "poolside_v1",
    "lfm2": "qwen3",
    "ling": "ling3",
    "magistral": "mistral",
    "mimo": "mimo",
    "mimo_v2": "mimo",
    "minimax_m2": "minimax",
    "minimax_m3": "minimax-m3",
    "ministral": "mistral",
    "nemotron": "nemotron_3",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "qwen3_vl": "qwen3",
    "qwq": "qwen3",
    "step3p5": "step3p5",
}


def test_tool_starts_are_those_of_sglangs_parsers() -> None:
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    starts = {preset.name: preset.tool_start for preset in load_presets()}
    expected = {
        name: ReasoningParser(parser).detector.tool_start_token or ""
        for name, parser in PARSERS.items()
    }
    assert starts == dict.fromkeys(starts, "") | expected
    assert expected["qwen3"] == expected["glm"] == expected["nemotron"] == "<tool_call>"
    assert expected["kimi_k2"] == "<|tool_calls_section_begin|>"
    assert expected["hunyuan"] == "<tool_calls>"


def test_parsers_with_a_tool_start_belong_to_a_preset_or_to_no_model_that_led_serves() -> None:
    """A parser that a new version of SGLang brings shows here."""
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    found = {
        name
        for name, detector in ReasoningParser.DetectorMap.items()
        if name not in ("beam", "response_template")
        and getattr(detector(), "tool_start_token", None)
    }
    # Qwen3's detector under other names.
    same = {"dots", "interns1", "nanbeige", "qwen3-thinking"}
    # Models that patches/families.py does not hold or refuses.
    not_served = {"kimi_k3"}
    # Three pairs of delimiters, which the request picks: no preset can hold them.
    not_served |= {"k2_horizon"}
    with_preset = {parser for name, parser in PARSERS.items() if pick(name).tool_start}
    assert found == with_preset | same | not_served


def pick(name: str) -> Preset:
    return next(preset for preset in load_presets() if preset.name == name)


def test_presets_use_the_papers_depth_and_candidates() -> None:
    assert {(preset.depth, preset.candidates) for preset in load_presets()} == {(8, 8)}


def test_name_patterns_come_first_and_the_fallback_last() -> None:
    presets = load_presets()
    named = [bool(preset.name_patterns) for preset in presets]
    assert named == sorted(named, reverse=True)
    assert presets[-1].name == "default"


def test_every_preset_file_is_loaded() -> None:
    folder = resources.files("led_sglang.configs") / "families"
    files = {file.name for file in folder.iterdir()}
    assert {f"{preset.name}.yaml" for preset in load_presets()} == files


def test_a_good_file_is_read_in_full() -> None:
    assert parse_preset("family.yaml", GOOD) == Preset(
        name="family",
        model_types=("some_type",),
        name_patterns=("some.name",),
        think_start="<a>",
        think_end="</a>",
        depth=8,
        candidates=8,
        sampling={"temperature": 1.0, "top_k": 20},
        notes="Where it is from.",
    )


def test_a_tool_start_is_read() -> None:
    text = GOOD.replace("depth: 8", 'tool_start: "<call>"\ndepth: 8')
    assert parse_preset("family.yaml", text).tool_start == "<call>"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth: 8\n", "", "key depth is missing"),
        ("depth: 8", "depth: 8\ndeph: 8", "unknown key deph"),
        ("depth: 8", "depth: '8'", "depth must be a whole number from 1 up, not '8'"),
        ("depth: 8", "depth: 0", "depth must be a whole number from 1 up, not 0"),
        ("candidates: 8", "candidates: true", "candidates must be a whole number"),
        ("temperature: 1", "temperature: hot", r"sampling\.temperature must be a number above 0"),
        ("temperature: 1", "temperature: 0", r"sampling\.temperature must be a number above 0"),
        ("top_k: 20", "top_k: 0.5", r"sampling\.top_k must be a whole number"),
        ("top_k: 20", "min_p: 0", r"unknown key sampling\.min_p"),
        ("sampling: {temperature: 1, top_k: 20}", "sampling:", "sampling must be a mapping"),
        ("name: [some.name]", "names: []", r"unknown key match\.names"),
        (", name: [some.name]", "", r"key match\.name is missing"),
        ("[some.name]", "some.name", r"match\.name must be a list of texts, not 'some.name'"),
        ("[some.name]", "['(']", r"match\.name must be a list of regular expressions"),
        (
            "{model_type: [some_type], name: [some.name]}",
            "{model_type: [], name: []}",
            r"match must be empty in default\.yaml and only there",
        ),
        ('think_start: "<a>"', "think_start: ''", "think_start must be a text"),
        ('think_end: "</a>"', 'think_end: "<a>"', "think_end must be different from think_start"),
        ("depth: 8", "tool_start: ''\ndepth: 8", "tool_start must be a text"),
        ("depth: 8", "tool_start: [a]\ndepth: 8", "tool_start must be a text"),
        ("depth: 8", 'tool_start: "</a>"\ndepth: 8', "tool_start must be different from the think"),
        ("name: family", "name: other", "name must be the file's name"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ValueError, match=rf"^family\.yaml: .*{message}"):
        parse_preset("family.yaml", GOOD.replace(old, new))


@pytest.mark.parametrize("text", ["", "- a", "name: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^family\.yaml"):
        parse_preset("family.yaml", text)
