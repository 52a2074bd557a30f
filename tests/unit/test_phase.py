"""Think phase: the automaton against a naive re-scan, on the host and as device tables."""

from __future__ import annotations

import itertools
import random
import re
import time
from array import array
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from toy_tokenizer import make_tokenizer
from transformers import PreTrainedTokenizerFast

from led_sglang.delimiters import (
    as_spelled,
    boundary_ids,
    resolve_delimiters,
    resolve_tool_start,
)
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


@pytest.mark.parametrize(
    ("special", "plain", "start", "end", "lengths"),
    [
        ((), ("<think>", "</think>"), "<think>", "</think>", (1, 1)),
        (("[THINK]", "[/THINK]"), (), "[THINK]", "[/THINK]", (1, 1)),
        ((), ("<seed:think>", "</seed:think>"), "<seed:think>", "</seed:think>", (1, 1)),
        (
            ("<|channel|>", "<|message|>", "<|end|>"),
            (),
            "<|channel|>analysis<|message|>",
            "<|end|>",
            (10, 1),
        ),
    ],
)
def test_preset_delimiters_resolve_to_tokens_of_the_vocabulary(
    special: tuple[str, ...],
    plain: tuple[str, ...],
    start: str,
    end: str,
    lengths: tuple[int, int],
) -> None:
    tokenizer = make_tokenizer(special, plain)
    ids = resolve_delimiters(tokenizer, start, end, named_by_user=False)
    assert [tokenizer.decode(list(i)) for i in ids] == [start, end]
    assert tuple(len(i) for i in ids) == lengths


@pytest.mark.parametrize(
    ("start", "end", "missing"),
    [
        ("<think>", "</think>", "</think>"),
        ("<|channel|>analysis<|message|>", "<think>", r"<\|channel\|>"),
    ],
)
def test_a_preset_whose_tag_is_no_token_names_the_flags(start: str, end: str, missing: str) -> None:
    tokenizer = make_tokenizer(plain=("<think>", "<|message|>"))
    flags = "--led-think-start and --led-think-end.*--led-think-only false"
    with pytest.raises(ValueError, match=f"no token '{missing}'.*{flags}"):
        resolve_delimiters(tokenizer, start, end, named_by_user=False)


def test_a_presets_tag_is_found_with_the_tokenizers_suffix() -> None:
    suffixed = make_tokenizer(plain=("<think:x>", "</think:x>", "<tool_calls:x>"))
    tags = ("<think>", "</think>", "<tool_calls>", "<other>", "[THINK]", "")
    found = [as_spelled(suffixed, tag) for tag in tags]
    assert found == ["<think:x>", "</think:x>", "<tool_calls:x>", "<other>", "[THINK]", ""]
    several = make_tokenizer(plain=("<think>", "<think:x>", "</think:x>", "</think:y>"))
    assert [as_spelled(several, tag) for tag in tags[:2]] == ["<think>", "</think>"]


def test_delimiters_named_by_the_user_may_be_ordinary_text() -> None:
    ids = resolve_delimiters(make_tokenizer(), "<think>", "Final é:", named_by_user=True)
    assert [len(i) for i in ids] == [7, 9]


def test_delimiters_named_by_the_user_must_be_expressible() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "begin": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    for bad in ("stop", "begin  begin", ""):
        with pytest.raises(ValueError, match=r"cannot express .*--led-think-start"):
            resolve_delimiters(tokenizer, "begin", bad, named_by_user=True)


@pytest.mark.parametrize(
    ("plain", "text", "length"),
    [
        (("<tool_call>",), "<tool_call>", 1),
        ((), "<tool_call>", 11),
        ((), "Action é:", 10),
        ((), "", 0),
    ],
)
def test_a_tool_start_is_the_tokens_it_encodes_to(
    plain: tuple[str, ...], text: str, length: int
) -> None:
    tokenizer = make_tokenizer(plain=plain)
    ids = resolve_tool_start(tokenizer, text)
    assert tokenizer.decode(list(ids)) == text
    assert len(ids) == length


def test_a_tool_start_must_be_expressible() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "begin": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    for bad in ("stop", "begin  begin"):
        with pytest.raises(ValueError, match=r"cannot express .*--led-tool-start"):
            resolve_tool_start(tokenizer, bad)


def test_boundaries_are_the_control_tokens() -> None:
    tokenizer = make_tokenizer(
        special=("<eos>", "<|im_start|>"), plain=("<think>", "<｜User｜>", "<tool_call>")
    )
    names = tokenizer.convert_ids_to_tokens(sorted(boundary_ids(tokenizer)))
    # DeepSeek-R1's distilled models do not flag their turn markers as special.
    assert names == ["<eos>", "<|im_start|>", "<｜User｜>"]
