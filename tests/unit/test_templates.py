"""The phase in which an answer begins, on prompts as the models' own chat templates render them.

Prompts of one turn, written by hand: after the templates themselves, or what others' tests expect
of them, where a source is named (what they render, none of their text), else after what SGLang's
reasoning parser says of the template.
"""

from __future__ import annotations

import pytest
from toy_tokenizer import make_tokenizer

from led_sglang.delimiters import boundary_ids, resolve_delimiters, resolve_tool_start
from led_sglang.phase import Phase, ThinkAutomaton
from led_sglang.presets import load_presets

BEFORE, THINK, RESPONSE = Phase.BEFORE, Phase.THINK, Phase.RESPONSE

CHATML = ("<|im_start|>", "<|im_end|>")
THINKS = ("<think>", "</think>", "<tool_call>")
HY3 = ("<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜reasoning_mode｜>")
COHERE = (
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>"),
)
# Of each preset: the special tokens, the other added ones, and prompts with the phase they end in.
PROMPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Phase]]] = {
    # Source: the template of Qwen3.8-27B, in a copy that a benchmark's repository has.
    "qwen3_5": (
        CHATML,
        THINKS,
        {
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n": THINK,
            "<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n": RESPONSE,
            "<|im_start|>user\n<think>?<|im_end|>\n<|im_start|>assistant\n": BEFORE,
        },
    ),
    "qwen3_vl": (
        CHATML,
        THINKS,
        {
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n": THINK,
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n": BEFORE,
        },
    ),
    # Source: models/templates/gemma4.jinja of github.com/ggml-org/llama.cpp.
    "gemma4": (
        ("<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"),
        (),
        {
            "<bos><|turn>system\n<|think|><turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n": BEFORE,
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>": RESPONSE,
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n": THINK,  # continued
        },
    ),
    # Source: the template of Hy3-preview, in a copy of the checkpoint's files.
    "hy_v3": (
        HY3,
        ("<think>", "</think>", "<tool_calls>"),
        {
            "<｜hy_begin▁of▁sentence｜><｜reasoning_mode｜>reasoning_effort:high"
            "<｜hy_User｜>Hi<｜hy_Assistant｜><think>": THINK,
            "<｜hy_begin▁of▁sentence｜><｜reasoning_mode｜>reasoning_effort:no_think"
            "<｜hy_User｜>Hi<｜hy_Assistant｜><think></think>": RESPONSE,
        },
    ),
    # Source: the template of GLM-5.3-Flash, in a copy for a serving set-up.
    "glm": (
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        THINKS,
        {
            "[gMASK]<sop><|system|>Reasoning Effort: Max<|user|>Hi<|assistant|><think>": THINK,
            "[gMASK]<sop><|user|>Hi<|assistant|><think></think>": RESPONSE,
        },
    ),
    # Source: models/templates/StepFun3.7-Flash.jinja of github.com/ggml-org/llama.cpp.
    "step3p5": (
        CHATML,
        ("<think>", "</think>"),
        {"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n": THINK},
    ),
    # Source: the template of EXAONE 4.0, in a copy of the checkpoint's files.
    "exaone_moe": (
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        ("<think>", "</think>"),
        {
            "[|user|]\nHi[|endofturn|]\n[|assistant|]\n<think>\n": THINK,
            "[|user|]\nHi[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n": RESPONSE,
        },
    ),
    # Source: SYSTEM_PROMPT.txt of Ministral-3-8B-Reasoning-2512, as a collection of vendors' advice
    # quotes it: it shows the model its delimiters, and the model opens the thought.
    "ministral": (
        ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[THINK]", "[/THINK]"),
        (),
        {"[SYSTEM_PROMPT][THINK]Draft here.[/THINK]Answer.[/SYSTEM_PROMPT][INST]Hi[/INST]": BEFORE},
    ),
    # Source: what the tests of Ollama's renderer expect of the templates of Laguna-XS.2 and its
    # successor.
    "laguna": (
        ("〈|EOS|〉", "<user>", "</user>", "<assistant>"),
        THINKS,
        {
            "〈|EOS|〉<user>\nHi\n</user>\n<assistant>\n<think>": THINK,
            "〈|EOS|〉<user>\nHi\n</user>\n<assistant>\n</think>": RESPONSE,
            "〈|EOS|〉<user>Hi</user>\n<assistant></think>": RESPONSE,
        },
    ),
    # Source: how prompts of Command R7B and of Cohere 2 MoE end in the server tests of llama.cpp.
    "cohere2": (
        COHERE,
        (),
        {
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|>": THINK,
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>": RESPONSE,
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>": BEFORE,
        },
    ),
    # Source: how prompts end in tests of two projects that render or read MiniMax-M3's template.
    "minimax_m3": (
        ("]~!b[", "]~b]", "[e~["),
        ("<mm:think>", "</mm:think>"),
        {
            "]~!b[]~b]user\nHi[e~[\n]~b]ai\n<mm:think>": THINK,
            "]~!b[]~b]user\nHi[e~[\n]~b]ai\n": BEFORE,
            "]~!b[]~b]user\nHi[e~[\n]~b]ai\n</mm:think>": RESPONSE,
        },
    ),
    # Source: what the tests of Ollama's renderer expect of Ling 3's template; the last prompt, of
    # Ling 2, from SpecForge's registry of templates.
    "ling": (
        ("<role>", "</role>", "<|role_end|>"),
        THINKS,
        {
            "<role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>\n<think>": THINK,
            "<role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>\n<think></think>": RESPONSE,
            "<role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>": BEFORE,
        },
    ),
    # Source: models/templates/LFM2.5-8B-A1B.jinja of github.com/ggml-org/llama.cpp.
    "lfm2": (
        CHATML,
        THINKS,
        {"<|startoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n": BEFORE},
    ),
}
CASES = [(name, prompt) for name, (_, _, prompts) in PROMPTS.items() for prompt in prompts]


@pytest.mark.parametrize(("name", "prompt"), CASES)
def test_phase_in_which_the_answer_begins(name: str, prompt: str) -> None:
    special, plain, prompts = PROMPTS[name]
    tokenizer = make_tokenizer(special, plain)
    (preset,) = (preset for preset in load_presets() if preset.name == name)
    start, end = resolve_delimiters(
        tokenizer, preset.think_start, preset.think_end, named_by_user=False
    )
    tool = resolve_tool_start(tokenizer, preset.tool_start)
    automaton = ThinkAutomaton(start, end, boundary_ids(tokenizer), tool)
    state = automaton.scan_prompt(tokenizer.encode(prompt, add_special_tokens=False))
    assert automaton.phase(state) == prompts[prompt]
    # The model closes a thought that is open, or opens and closes one.
    answer = [*([] if automaton.phase(state) == THINK else start), *tokenizer.encode("hm"), *end]
    phases = [automaton.phase(state := automaton.advance(state, [token])) for token in answer]
    assert phases[-2:] == [THINK, RESPONSE]
