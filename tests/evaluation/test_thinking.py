"""Thought and answer, in every order models write them, for the delimiters of every preset."""

from __future__ import annotations

import pytest

from led_sglang.evaluation.grading.thinking import Delimiters, split_thinking
from led_sglang.presets import Preset, load_presets

# {s} and {e} stand for the delimiters. What the completion begins with (a template that has opened
# the thought, one that has not, or a server that separates the first thought), how it ended, the
# answer, and whether its last thought has ended.
ORDERS = [
    ("opened", "t{e}12", "stop", "12", True),
    ("opened", "{s}t{e}12", "stop", "12", True),  # opened twice
    ("opened", "t{e}11{s}u{e}12", "stop", "12", True),
    ("opened", "t{e}12{s}u{e}", "stop", "12", True),
    ("opened", "t{e}12{s}u", "length", "12", False),
    ("opened", "t{e}12{s}", "length", "12", False),
    ("opened", "t{e}11{s}u{e}12{s}v", "length", "12", False),
    ("opened", "t{e}{s}u", "length", "", False),
    ("opened", "t{e}", "length", "", True),
    ("opened", "t{e}", "stop", "", True),
    ("opened", "t", "length", "", False),
    ("opened", "t", "stop", "", False),
    ("opened", "", "stop", "", False),
    ("opened", "t{s}u", "length", "", False),
    ("unopened", "12", "stop", "12", True),
    ("unopened", "12", "length", "12", True),
    ("unopened", "{s}t{e}12", "stop", "12", True),
    ("unopened", "\n{s}t{e}12", "stop", "12", True),
    ("unopened", "{s}t", "length", "", False),
    ("unopened", "12{s}t", "length", "12", False),
    ("unopened", "12{s}t{e}", "stop", "12", True),
    ("unopened", "11{s}t{e}12", "stop", "12", True),
    ("separated", "12", "stop", "12", True),
    ("separated", "12", "length", "12", True),
    ("separated", "", "length", "", False),
    ("separated", "{s}u{e}12", "stop", "12", True),
    ("separated", "11{s}u{e}12", "stop", "12", True),
    ("separated", "12{s}u{e}", "stop", "12", True),
    ("separated", "12{s}u", "length", "12", False),
    ("separated", "12{s}", "length", "12", False),
    ("separated", "{s}u", "length", "", False),
    ("unknown", "12", "stop", "12", True),
    ("unknown", "t", "length", "", False),
    ("unknown", "t{e}12", "stop", "12", True),
    ("unknown", "{s}t", "length", "", False),
    ("unknown", "12{s}t", "length", "12", False),
    ("opened", "{s}{e}12", "stop", "12", True),
    ("opened", "t{e}12{s}u", "stop", "12", False),
    ("opened", "t{e}12{s}{e}", "stop", "12", True),
    ("opened", "t{e}\n{s}\n{e}12", "stop", "12", True),
    ("opened", "{s}t{s}u{e}12", "stop", "12", True),
    ("opened", "t{e}{{}}", "tool_calls", "{}", True),
    ("separated", "12{s}\n", "stop", "12", False),
    ("separated", "11{s}u{e}\n", "stop", "11", True),
    ("unopened", " {s}t{e} ", "stop", " ", True),
]
# An end that no start has gone before closes a thought, unless the end closes every message.
STRAY_ENDS = [
    ("separated", "no{e}12", "stop", "12", True),
    ("separated", "no{e}12{s}u", "length", "12", False),
    ("separated", "no{e}", "length", "", True),
    ("separated", "12{e}", "stop", "12", True),
    ("opened", "t{e}no{e}12", "stop", "12", True),
    ("opened", "t{e}12{e}\n", "stop", "12", True),
    ("opened", "t{e}no{e}", "length", "", True),
    ("unopened", "t{e}12", "stop", "12", True),
    ("unopened", "t{e}", "stop", "", True),
]
PRESETS = load_presets()
BEGINNINGS = {"opened": True, "unopened": False, "separated": True, "unknown": None}


def parts_of(begins: str, text: str, finish: str, preset: Preset) -> tuple[str, bool]:
    content = text.format(s=preset.think_start, e=preset.think_end)
    delimiters = Delimiters(preset.think_start, preset.think_end, BEGINNINGS[begins])
    reasoning = "first thought" if begins == "separated" else None
    parts = split_thinking(content, reasoning, finish, delimiters)
    return parts.answer, parts.closed


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_the_answer_stands_outside_of_all_thoughts(preset: Preset) -> None:
    stray = [] if preset.name == "gpt_oss" else STRAY_ENDS
    found = [parts_of(begins, text, finish, preset) for begins, text, finish, *_ in ORDERS + stray]
    assert found == [(answer, closed) for *_, answer, closed in ORDERS + stray]


@pytest.mark.parametrize(
    ("content", "reasoning", "kept", "answer"),
    [
        ("<think>t</think>12", None, "t", "12"),
        ("t</think>11<think>u</think>12", None, "t</think>11<think>u", "12"),
        ("no</think>12", "t", "t\n\nno", "12"),
        ("12<think>u", "t", "t\n\n<think>u", "12"),
        ("<think>u", None, "u", ""),
    ],
)
def test_what_is_no_answer_is_kept_as_reasoning(
    content: str, reasoning: str | None, kept: str, answer: str
) -> None:
    parts = split_thinking(content, reasoning, "stop", Delimiters(opened=False))
    assert (parts.reasoning, parts.answer) == (kept, answer)


HARMONY = Delimiters("<|channel|>analysis<|message|>", "<|end|>", opened=False)
THOUGHT = "<|channel|>analysis<|message|>5 + 7<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>12"
TOOL = "<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}"


def test_a_final_message_of_gpt_oss_is_no_thought_whatever_the_template_opened() -> None:
    unknown = Delimiters(HARMONY.start, HARMONY.end, opened=None)
    final = FINAL.removeprefix("<|start|>assistant")
    parts = split_thinking(final, None, "length", unknown)
    assert (parts.answer, parts.closed) == ("12", True)


@pytest.mark.parametrize(
    ("content", "finish", "answer", "closed"),
    [
        (THOUGHT + FINAL, "stop", "12", True),
        (THOUGHT + FINAL + "<|return|>", "stop", "12", True),
        (THOUGHT + FINAL + "<|end|>", "stop", "12", True),
        (FINAL.removeprefix("<|start|>assistant"), "stop", "12", True),
        (THOUGHT + "<|start|>assistant" + THOUGHT + FINAL, "stop", "12", True),
        (THOUGHT + FINAL + "<|end|><|start|>assistant" + THOUGHT, "stop", "12", True),
        (THOUGHT + FINAL + "<|end|><|start|>assistant" + THOUGHT[:-9], "length", "12", False),
        (THOUGHT + TOOL + "<|end|>" + FINAL, "stop", "12", True),
        (THOUGHT + TOOL + "<|call|>", "stop", "", True),
        (THOUGHT + "<|start|>assistant<|channel|>fin", "length", "", True),
        (THOUGHT + "<|start|>", "length", "", True),
        (THOUGHT[:-7], "length", "", False),
        ("12", "stop", "12", True),  # a server that has taken the format away
    ],
)
def test_messages_of_gpt_oss(content: str, finish: str, answer: str, closed: bool) -> None:
    parts = split_thinking(content, None, finish, HARMONY)
    assert (parts.answer, parts.closed) == (answer, closed)
