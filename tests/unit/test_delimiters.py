"""Think delimiters and tool starts as ids of a tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from toy_tokenizer import make_tokenizer
from transformers import PreTrainedTokenizerFast

from led_sglang.delimiters import (
    as_spelled,
    boundary_ids,
    resolve_delimiters,
    resolve_tool_start,
)


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
