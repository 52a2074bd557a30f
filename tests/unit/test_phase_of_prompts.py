"""The think phase in which a prompt leaves a request: the last delimiter of its tail decides."""

from __future__ import annotations

import random
import time
from array import array
from typing import Any

import numpy as np
import pytest

from led_sglang.phase import Phase, ThinkAutomaton

BEFORE, THINK, RESPONSE = Phase.BEFORE, Phase.THINK, Phase.RESPONSE


# Names for prompts: turn start/end, text, <think>, </think>, <tool_call>.
S, E, X, OPEN, CLOSE, CALL = 100, 101, 9, 1, 2, 3


@pytest.mark.parametrize("make", [list, lambda ids: array("q", ids), np.array])
@pytest.mark.parametrize(
    ("prompt", "phase"),
    [
        pytest.param([], BEFORE, id="empty"),
        pytest.param([S, X, E, S, X], BEFORE, id="template-leaves-it-closed"),
        pytest.param([S, X, E, S, X, OPEN, X], THINK, id="template-opens-thinking"),
        pytest.param([S, X, E, S, X, OPEN, X, CLOSE, X], RESPONSE, id="opens-and-closes"),
        pytest.param([S, OPEN, X, CLOSE, X, E, S, X], BEFORE, id="block-of-an-earlier-turn"),
        pytest.param([S, X, OPEN, X, E, S, X], BEFORE, id="literal-tag-in-user-text"),
        pytest.param([S, X, CLOSE, X, E, S, OPEN], THINK, id="literal-end-then-opened"),
        pytest.param([S, OPEN, X, CLOSE, X, OPEN, X], THINK, id="reopened"),
        pytest.param([S, OPEN, X, E], BEFORE, id="ends-with-a-boundary"),
        pytest.param([X, CLOSE, X, OPEN, X], THINK, id="no-boundary-at-all"),
        pytest.param([S, X, OPEN, X, CALL, X], RESPONSE, id="ends-in-a-call-out-of-a-thought"),
        pytest.param([S, X, OPEN, X, CALL], RESPONSE, id="ends-with-a-tool-start"),
        pytest.param([S, X, OPEN, X, CLOSE, CALL, X], RESPONSE, id="call-after-the-thought"),
        pytest.param([S, X, CALL, X], BEFORE, id="call-without-a-thought"),
        pytest.param([S, X, CALL, X, OPEN, X], THINK, id="call-then-opened"),
        pytest.param([S, OPEN, X, CALL, X, E, S, X, OPEN], THINK, id="call-of-an-earlier-turn"),
        pytest.param([S, OPEN, X, CALL, X, E, S, X], BEFORE, id="call-of-an-earlier-turn-closed"),
        pytest.param([S, X, CALL, E, S, OPEN, X], THINK, id="literal-tool-start-in-user-text"),
        pytest.param([X, OPEN, CALL, X, OPEN, X, CALL], RESPONSE, id="no-boundary-two-calls"),
    ],
)
def test_the_last_delimiter_of_the_prompts_tail_wins(
    make: Any, prompt: list[int], phase: Phase
) -> None:
    # Kimi-K2's tool start is a special token, as turn markers are.
    special = [S, E, OPEN, CLOSE, CALL]
    automaton = ThinkAutomaton([OPEN], [CLOSE], boundaries=special, tool_start=[CALL])
    assert automaton.phase(automaton.scan_prompt(make(prompt))) == phase


def test_a_delimiter_that_the_prompt_begins_is_completed_in_decoding() -> None:
    automaton = ThinkAutomaton([1, 1, 2], [4], boundaries=[S])
    state = automaton.scan_prompt([S, 4, X, 1, 1])
    assert automaton.phase(state) == RESPONSE
    assert automaton.phase(automaton.advance(state, [2])) == THINK
    # The boundary cuts the sequence: these are not neighbours in one turn.
    assert automaton.phase(automaton.advance(automaton.scan_prompt([1, 1, S]), [2])) == BEFORE


def test_a_tool_start_that_the_prompt_begins_is_completed_in_decoding() -> None:
    automaton = ThinkAutomaton([1], [2], boundaries=[S], tool_start=[3, 3, 4])
    state = automaton.scan_prompt([S, 1, X, 3, 3])
    assert automaton.phase(state) == THINK
    assert automaton.phase(automaton.advance(state, [3])) == THINK
    assert automaton.phase(automaton.advance(state, [3, 4])) == RESPONSE
    # A retracted request: the prompt's state, then the tokens so far.
    assert automaton.phase(automaton.advance(state, [4, X, X])) == RESPONSE


def test_gpt_oss_end_token_is_a_delimiter_and_no_boundary() -> None:
    start, channel, analysis, message, end = 1, 2, 3, 4, 5
    automaton = ThinkAutomaton(
        [channel, analysis, message], [end], boundaries=[start, channel, message, end]
    )
    turn = [start, X, message, X, end, start, X]
    assert automaton.phase(automaton.scan_prompt(turn)) == BEFORE
    opened = [*turn, channel, analysis, message, X]
    assert automaton.phase(automaton.scan_prompt(opened)) == THINK
    assert automaton.phase(automaton.scan_prompt([*opened, end])) == RESPONSE
    assert automaton.phase(automaton.scan_prompt([*opened, end, start])) == BEFORE


# Around the scan's chunks of 4,096 tokens, counted from the end of the prompt.
@pytest.mark.parametrize("distance", [1, 4095, 4096, 4097, 8192, 50_000, 99_990])
@pytest.mark.parametrize("make", [list, lambda ids: array("q", ids)])
def test_long_prompts(make: Any, distance: int) -> None:
    automaton = ThinkAutomaton([1, 2, 3], [4], boundaries=[S])
    plain = [X] * (100_000 - distance) + [1, 2, 3] + [X] * distance
    assert automaton.phase(automaton.scan_prompt(make(plain))) == THINK
    cut = [1, 2, 3] + [X] * (100_000 - distance) + [S] + [X] * distance
    assert automaton.phase(automaton.scan_prompt(make(cut))) == BEFORE


def test_a_prompt_of_100k_tokens_is_scanned_in_milliseconds() -> None:
    automaton = ThinkAutomaton([1, 2, 3], [4], boundaries=range(1000, 1200))
    prompt = array("q", [random.Random(0).randrange(2000, 150_000)] * 100_000)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        automaton.scan_prompt(prompt)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.02
