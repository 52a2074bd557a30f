"""Think phase: the automaton against a naive re-scan, on the host and as device tables."""

from __future__ import annotations

import itertools
import random
import re

import pytest
import torch

from led_sglang.phase import Phase, ThinkAutomaton

BEFORE, THINK, RESPONSE = Phase.BEFORE, Phase.THINK, Phase.RESPONSE

# Single tokens (Qwen3), several tokens (gpt-oss), repeats that overlap themselves, a delimiter that
# begins inside the other one, and lengths far apart.
DELIMITERS = [
    ((1,), (2,)),
    ((1, 2, 3), (4,)),
    ((1, 1, 2), (2, 2, 1)),
    ((1, 2), (2, 3)),
    ((1, 2, 1, 3), (1, 2, 2)),
    ((1, 2, 1, 2, 3), (3, 1, 2)),
]


def naive_phase(start: tuple[int, ...], end: tuple[int, ...], stream: list[int]) -> Phase:
    """Re-scan from the end: the delimiter that was completed last decides."""
    for stop in range(len(stream), 0, -1):
        seen = stream[:stop]
        if tuple(seen[-len(start) :]) == start:
            return THINK
        if tuple(seen[-len(end) :]) == end:
            return RESPONSE
    return BEFORE


def random_stream(rng: random.Random, start: tuple[int, ...], end: tuple[int, ...]) -> list[int]:
    """Beginnings of both delimiters, some of them whole, between stray tokens."""
    stream: list[int] = []
    for _ in range(rng.randrange(12)):
        delimiter = rng.choice([start, end])
        stream += delimiter[: rng.randrange(len(delimiter) + 1)]
        stream += rng.choices([1, 2, 3, 4, 9], k=rng.randrange(2))
    return stream


@pytest.mark.parametrize(
    ("start", "end", "stream", "phases"),
    [
        pytest.param([1], [2], [9, 1, 9, 2, 9], "BBTTRR", id="end-token-is-sampled-in-think"),
        pytest.param([1], [2], [1, 2, 9, 1, 9], "BTRRTT", id="reentry-from-response"),
        pytest.param([1], [2], [9, 2, 9], "BBRR", id="end-without-start"),
        pytest.param([1], [2], [1, 1, 2, 2], "BTTRR", id="doubled"),
        pytest.param([1, 1, 2], [3], [1, 1, 1, 2, 9], "BBBBTT", id="self-overlap"),
        pytest.param([1, 2, 3], [4], [1, 2, 9, 3, 1, 2, 3], "BBBBBBBT", id="broken-then-whole"),
        pytest.param([1, 2, 1, 3], [4], [1, 2, 1, 2, 1, 3], "BBBBBBT", id="falls-back-to-prefix"),
        pytest.param([1, 2], [2, 3], [1, 2, 3], "BBTR", id="shared-token"),
        pytest.param([5, 6, 7], [8], [5, 6, 7, 9, 8, 5, 9, 7, 8], "BBBTTRRRRR", id="gpt-oss"),
    ],
)
def test_phase_of_every_position(
    start: list[int], end: list[int], stream: list[int], phases: str
) -> None:
    automaton = ThinkAutomaton(start, end)
    state = automaton.initial[BEFORE]
    seen = automaton.phase(state).name[0]
    for token in stream:
        state = automaton.advance(state, [token])
        seen += automaton.phase(state).name[0]
    assert seen == phases


@pytest.mark.parametrize(("start", "end"), DELIMITERS)
def test_random_streams_agree_with_a_naive_rescan(
    start: tuple[int, ...], end: tuple[int, ...]
) -> None:
    rng = random.Random(0)
    automaton = ThinkAutomaton(start, end)
    phases = set()
    for _ in range(200):
        stream = random_stream(rng, start, end)
        state = automaton.initial[BEFORE]
        for i, token in enumerate(stream):
            state = automaton.advance(state, [token])
            assert automaton.phase(state) == naive_phase(start, end, stream[: i + 1])
            phases.add(automaton.phase(state))
        split = rng.randrange(len(stream) + 1)
        halfway = automaton.advance(automaton.initial[BEFORE], stream[:split])
        assert automaton.advance(halfway, stream[split:]) == state
        assert automaton.scan_prompt(stream) == state
    assert phases == set(Phase)


# Think start, think end, tool start: single tokens, several tokens, a tool start that overlaps with
# itself, that begins as the think end does, that begins or ends inside one of the delimiters.
WITH_TOOL_START = [
    ((1,), (2,), (3,)),
    ((1,), (2,), (3, 3, 4)),
    ((1, 2), (2, 1, 4), (2, 1, 3)),
    ((1, 2, 3), (4,), (3, 3, 1, 1)),
    ((1, 2, 1, 3), (1, 2, 2), (2, 1, 1)),
    ((4, 1), (4, 2), (1, 4, 3)),
]


def phases_by_position(
    stream: list[int], start: tuple[int, ...], end: tuple[int, ...], tool: tuple[int, ...]
) -> list[Phase]:
    """The phase after each token; occurrences are found in the whole stream beforehand."""
    marks: dict[int, str] = {}
    for name, delimiter in (("start", start), ("end", end), ("tool", tool)):
        for stop in range(len(delimiter), len(stream) + 1):
            if stream[stop - len(delimiter) : stop] == list(delimiter):
                assert stop - 1 not in marks
                marks[stop - 1] = name
    phases, thinking, seen = [], False, False
    for position in range(len(stream)):
        mark = marks.get(position)
        seen |= mark in ("start", "end")
        thinking = mark == "start" or (thinking and mark is None)
        phases.append(THINK if thinking else RESPONSE if seen else BEFORE)
    return phases


@pytest.mark.parametrize(("start", "end", "tool"), WITH_TOOL_START)
def test_a_tool_start_ends_an_open_thought_and_nothing_else(
    start: tuple[int, ...], end: tuple[int, ...], tool: tuple[int, ...]
) -> None:
    rng = random.Random(2)
    automaton = ThinkAutomaton(start, end, tool_start=tool)
    vocab_size = 10
    tables = automaton.device_tables(vocab_size, "cpu")
    interrupted = ignored = 0
    for _ in range(300):
        stream: list[int] = []
        for _ in range(rng.randrange(14)):
            delimiter = rng.choice([start, end, tool])
            stream += delimiter[: rng.choice([len(delimiter), rng.randrange(len(delimiter) + 1)])]
            stream += rng.choices([1, 2, 3, 4, 9], k=rng.randrange(2))
        expected = phases_by_position(stream, start, end, tool)
        state, on_device = automaton.initial[BEFORE], torch.tensor([automaton.initial[BEFORE]])
        for i, token in enumerate(stream):
            before = automaton.phase(state)
            state = automaton.advance(state, [token])
            on_device = tables.advance(on_device, torch.tensor([token]))
            assert automaton.phase(state) == expected[i], (stream, i)
            assert on_device.tolist() == [state]
            if tuple(stream[i + 1 - len(tool) : i + 1]) == tool:
                interrupted += before == THINK
                ignored += before != THINK
        assert automaton.scan_prompt(stream) == state
    assert interrupted > 50
    assert ignored > 50


@pytest.mark.parametrize(
    ("tool", "stream", "phases"),
    [
        pytest.param([3], [1, 9, 3, 9], "BTTRR", id="tool-start-is-sampled-in-think"),
        pytest.param([3], [3, 9, 1, 3], "BBBTR", id="no-thought-to-end"),
        pytest.param([3], [1, 3, 3, 9, 2, 9], "BTRRRRR", id="end-behind-it-changes-nothing"),
        pytest.param([3], [1, 3, 9, 1, 9], "BTRRTT", id="a-new-thought-opens"),
        pytest.param([3, 4, 5], [1, 3, 4, 5, 9], "BTTTRR", id="several-tokens"),
        pytest.param([3, 4, 5], [1, 3, 4, 9, 5], "BTTTTT", id="broken-off"),
        pytest.param([3, 3, 4], [1, 3, 3, 3, 4, 9], "BTTTTRR", id="self-overlap"),
        pytest.param([3, 4], [3, 1, 4, 3, 4], "BBTTTR", id="begun-before-the-thought"),
        pytest.param([], [1, 3, 9], "BTTT", id="off"),
    ],
)
def test_phases_around_a_tool_start(tool: list[int], stream: list[int], phases: str) -> None:
    automaton = ThinkAutomaton([1], [2], tool_start=tool)
    states = [automaton.advance(automaton.initial[BEFORE], stream[:i]) for i in range(7)]
    seen = "".join(automaton.phase(state).name[0] for state in states[: len(stream) + 1])
    assert seen == phases


@pytest.mark.parametrize(
    ("parser", "tool_text"),
    [
        ("qwen3", "<tool_call>"),
        ("glm45", "<tool_call>"),
        ("kimi_k2", "<|tool_calls_section_begin|>"),
        ("nemotron_3", "<tool_call>"),
        ("hunyuan", "<tool_calls>"),
        ("mimo", "<tool_call>"),
        ("deepseek-v3", "<tool_call>"),
        ("minimax", "<tool_call>"),
        ("granite_thinking_parser", "<tool_call>"),
    ],
)
def test_a_thought_ends_where_sglangs_streaming_parser_ends_the_reasoning(
    parser: str, tool_text: str
) -> None:
    """SGLang reads texts, LED ids: here one token is one of these texts."""
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    half = len(tool_text) // 2
    texts = ["hm ", "\n", "<", "</think>", tool_text, tool_text[:half], '{"a": 1}']
    automaton = ThinkAutomaton([100], [3], tool_start=[4])
    rng = random.Random(3)
    ended = {3: 0, 4: 0}
    for _ in range(200):
        detector = ReasoningParser(parser, force_reasoning=True).detector
        state = automaton.initial[THINK]
        for token in rng.choices(range(len(texts)), [6, 2, 1, 1, 1, 1, 3], k=12):
            thought = automaton.phase(state) == THINK
            detector.parse_streaming_increment(texts[token])
            state = automaton.advance(state, [token])
            assert detector._in_reasoning == (automaton.phase(state) == THINK)
            if thought and not detector._in_reasoning:
                ended[token] += 1
    assert min(ended.values()) > 30


@pytest.mark.parametrize("opened", [True, False], ids=["by-the-template", "by-the-model"])
@pytest.mark.parametrize("pieces", [2, 3, 11])
@pytest.mark.parametrize("parser", ["qwen3", "glm45", "nemotron_3", "mimo"])
def test_a_tool_start_of_several_tokens_ends_it_with_its_last_one(
    parser: str, pieces: int, opened: bool
) -> None:
    """A stream with both parsers on: the call's text is the tool parser's, none of it a thought."""
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    tool = "<tool_call>"
    cuts = [len(tool) * i // pieces for i in range(pieces + 1)]
    texts = ["<think>", "</think>", "hm ", "\n", '{"name": "f"}', "</tool_call>"]
    start = range(len(texts), len(texts) + pieces)
    texts += [tool[a:b] for a, b in itertools.pairwise(cuts)]
    rng = random.Random(pieces)
    for _ in range(50):
        detector = ReasoningParser(parser, force_reasoning=opened).detector
        automaton = ThinkAutomaton([0], [1], tool_start=list(start))
        state = automaton.initial[THINK if opened else BEFORE]
        thought = [*([] if opened else [0]), *rng.choices([2, 3], k=rng.randrange(1, 5))]
        broken_off = [*list(start)[: rng.randrange(pieces)], 3]
        call = [*start, *rng.choices([2, 4, 5], k=4)]
        seen = ""
        for token in [*thought, *broken_off, *call]:
            result = detector.parse_streaming_increment(texts[token])
            seen += result.normal_text or ""
            state = automaton.advance(state, [token])
            assert (automaton.phase(state) == THINK) == detector._in_reasoning
        assert automaton.phase(state) == RESPONSE
        assert seen.lstrip() == "".join(texts[token] for token in call).lstrip()


@pytest.mark.parametrize(("start", "end"), DELIMITERS)
def test_device_tables_follow_the_host_automaton(
    start: tuple[int, ...], end: tuple[int, ...]
) -> None:
    automaton = ThinkAutomaton(start, end)
    # The last id of this vocabulary is a delimiter token whenever 4 is one.
    vocab_size = 5
    tables = automaton.device_tables(vocab_size, "cpu")
    rng = random.Random(1)
    streams = [[rng.choice([-1, 0, 1, 2, 3, 4, 5, 10**9]) for _ in range(60)] for _ in range(64)]
    states = [automaton.initial[rng.choice(list(Phase))] for _ in streams]
    device_states = torch.tensor(states)
    for step in range(60):
        tokens = [stream[step] for stream in streams]
        states = [automaton.advance(s, [t]) for s, t in zip(states, tokens, strict=True)]
        device_states = tables.advance(device_states, torch.tensor(tokens))
        assert device_states.tolist() == states
        expected = [automaton.phase(state) == THINK for state in states]
        assert tables.thinking(device_states).tolist() == expected
    assert device_states.dtype == torch.int64


def test_device_tables_are_small_and_typed() -> None:
    automaton = ThinkAutomaton([1, 2, 3], [4])
    tables = automaton.device_tables(100, "cpu")
    # Three phases, in each: nothing seen, [1] and [1, 2].
    assert automaton.num_states == 9
    assert tables.transitions.shape == (9, 5)
    assert tables.token_class.shape == (101,)
    assert tables.token_class.dtype == tables.transitions.dtype == torch.int64
    assert tables.thinks.dtype == torch.bool


def test_device_tables_refuse_a_delimiter_outside_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"token 7 is outside the vocabulary of 7 ids"):
        ThinkAutomaton([7], [2]).device_tables(7, "cpu")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ([], [1], "at least one token"),
        ([1], [], "at least one token"),
        ([1, 2], [1, 2], r"must differ, both are \[1, 2\]"),
        ([1], [3, 1, 2], r"\[3, 1, 2\] contains the other one, \[1\]"),
        ([3, 1, 2], [1, 2], r"\[3, 1, 2\] contains the other one, \[1, 2\]"),
    ],
)
def test_ambiguous_delimiters_are_refused(start: list[int], end: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThinkAutomaton(start, end)


@pytest.mark.parametrize(
    ("tool", "other"),
    [([1], [1]), ([2], [2]), ([9, 1], [1]), ([4, 5], [3, 4, 5])],
)
def test_a_tool_start_that_is_no_text_of_its_own_is_refused(
    tool: list[int], other: list[int]
) -> None:
    end = other if other != [1] else [2]
    message = f"tool start {tool} and the think delimiter {other} one contains the other"
    with pytest.raises(ValueError, match=re.escape(message)):
        ThinkAutomaton([1], end, tool_start=tool)
