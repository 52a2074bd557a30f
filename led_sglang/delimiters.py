"""Think delimiters, tool starts and turn boundaries as a tokenizer's ids."""

from __future__ import annotations

import re
from typing import Any

_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_CONTROL_TAG = re.compile(r"<\|.+\|>|<｜.+｜>")


def as_spelled(tokenizer: Any, text: str) -> str:
    """A tag `<NAME>` as the tokenizer spells it: Hy3's gives all of them a suffix, `<NAME:x>`."""
    tag = re.fullmatch(r"<([^<>\s:|]+)>", text)
    vocabulary = tokenizer.get_vocab()
    if tag is None or text in vocabulary:
        return text
    found = [token for token in vocabulary if token.startswith(f"<{tag[1]}:")]
    return found[0] if len(found) == 1 and found[0].endswith(">") else text


def resolve_delimiters(
    tokenizer: Any, think_start: str, think_end: str, *, named_by_user: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of both think delimiters, at least one each (docs/method.md#think-phase).

    A delimiter that splits into ordinary tokens may be merged with the text around it and then be
    missed. So a preset's tags (`<think>`, `[THINK]`, `<|channel|>`) must be single tokens of the
    vocabulary, while a delimiter that the user named is taken as it encodes.

    Args:
        tokenizer: a Hugging Face tokenizer.
        think_start, think_end: texts of the delimiters.
        named_by_user: whether the user chose the texts, not a preset.

    Raises:
        ValueError: the tokenizer cannot express a delimiter; the sentence names the flags to set.
    """
    start, end = (
        _encode_delimiter(tokenizer, text, named_by_user=named_by_user)
        for text in (think_start, think_end)
    )
    return start, end


def resolve_tool_start(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids that begin a tool call; none for an empty text: tool calls then end no thought.

    Raises:
        ValueError: the tokenizer cannot express it; the sentence names the flag to set.
    """
    ids = _encode(tokenizer, text) if text else ()
    if text and not ids:
        raise ValueError(
            f"the tokenizer cannot express the tool start {text!r} (it has an unknown token or "
            "does not decode back); set --led-tool-start to text that it can, or to an empty one"
        )
    return ids


def _encode_delimiter(tokenizer: Any, text: str, *, named_by_user: bool) -> tuple[int, ...]:
    if named_by_user:
        ids = _encode(tokenizer, text)
        if not ids:
            raise ValueError(
                f"the tokenizer cannot express the think delimiter {text!r} (it is empty, has an "
                "unknown token or does not decode back); set --led-think-start and "
                "--led-think-end to text that it can"
            )
        return ids
    for piece in _TAG.findall(text) or [text]:
        if len(_encode(tokenizer, piece)) != 1:
            raise ValueError(
                f"the tokenizer has no token {piece!r}; name the model's own think delimiters with "
                "--led-think-start and --led-think-end, or turn the think phase off with "
                "--led-think-only false"
            )
    return _encode(tokenizer, text)


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of `text` without special tokens; empty if they do not stand for just that text."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    unknown = tokenizer.unk_token_id
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if decoded != text or (unknown is not None and unknown in ids):
        return ()
    return ids


def boundary_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that structure a prompt: turn markers, beginning and end of text.

    Besides the tokens flagged special, added tokens written `<|...|>` count: DeepSeek-R1's
    distilled models do not flag `<｜User｜>` and `<｜Assistant｜>`.
    """
    control = {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or _CONTROL_TAG.fullmatch(token.content)
    }
    return frozenset(control) | frozenset(tokenizer.all_special_ids)
