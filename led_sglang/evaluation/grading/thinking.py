"""Where the thinking of a completion ends and its answer begins."""

from __future__ import annotations

import re
from dataclasses import dataclass

# gpt-oss writes messages: a header up to this mark, a text, and an end that any message may have.
_MESSAGE = "<|message|>"
_HEADER_OR_END = re.compile(
    r"<\|(?:start|channel)\|>.*?(?:<\|message\|>|\Z)|<\|(?:return|call)\|>", re.DOTALL
)
_TO_THE_USER = "<|channel|>final<|message|>"
_TO_A_TOOL = "<|channel|>commentary"


@dataclass(frozen=True)
class Delimiters:
    """Texts around the thinking, and whether it is open where the completion begins.

    True where the chat template has opened it: a completion without the end delimiter is then
    thought from its first to its last token. False: only what the completion opens itself is
    thought. None: nobody can tell, and a completion that was cut off counts as thought.
    """

    start: str = "<think>"
    end: str = "</think>"
    opened: bool | None = None

    @property
    def end_of_messages(self) -> bool:
        """The end delimiter closes every message, not only thoughts."""
        return self.start.endswith(_MESSAGE)


@dataclass(frozen=True)
class Parts:
    """A completion taken apart.

    Attributes:
        reasoning: all of it but the answer.
        answer: what stands outside its thoughts; empty where nothing does.
        closed: false where its last thought never ended.
    """

    reasoning: str
    answer: str
    closed: bool


def split_thinking(
    content: str, reasoning: str | None, finish_reason: str, delimiters: Delimiters
) -> Parts:
    """Take a completion apart.

    The answer is the last text outside of all thoughts that is not blank: models open a second
    thought after an answer, and are cut off in it.

    Args:
        content: the message's content.
        reasoning: its `reasoning_content`, where the server runs a reasoning parser.
        finish_reason: "stop", "length" or another.
        delimiters: of the model.
    """
    content = content.lstrip()
    # Texts, and between each two of them the delimiter that parts them.
    pieces = re.split(f"({re.escape(delimiters.start)}|{re.escape(delimiters.end)})", content)
    thought = _thoughts(pieces, bool(reasoning), finish_reason, delimiters)
    texts = [_message_text(text) if delimiters.end_of_messages else text for text in pieces[::2]]
    spoken = [index for index, inside in enumerate(thought) if not inside]
    place = next((index for index in reversed(spoken) if texts[index].strip()), None)
    if place is None and not thought[-1]:
        place = len(texts) - 1  # nothing but blanks behind the last thought
    if place is None:
        before, answer, after = content, "", ""
    else:
        before = "".join(pieces[: max(0, 2 * place - 1)])
        answer = texts[place]
        after = "".join(pieces[2 * place + 1 :])
    rest = [part for part in (reasoning, before.removeprefix(delimiters.start), after) if part]
    # A parser's empty content: whether the thought ended is not known, an answer there is none.
    closed = not thought[-1] and not (reasoning and not content)
    return Parts("\n\n".join(rest), answer, closed)


def _thoughts(
    pieces: list[str], separated: bool, finish_reason: str, delimiters: Delimiters
) -> list[bool]:
    """Whether each text of a completion is thought."""
    texts, marks = pieces[::2], pieces[1::2]
    inside = False if separated else delimiters.opened
    ended = separated
    found = []
    for index, mark in enumerate([*marks, None]):
        if mark is None:
            unknown = (
                inside is None and finish_reason == "length" and _TO_THE_USER not in texts[index]
            )
            found.append(inside is True or unknown)
        elif mark == delimiters.start:
            found.append(inside is True)
            inside = True
        else:
            # An end that nothing has opened closes a thought all the same, but for a last one that
            # a model writes behind its answer.
            last = (
                ended and finish_reason != "length" and not any(map(str.strip, texts[index + 1 :]))
            )
            stray = not delimiters.end_of_messages and not last
            found.append(inside is True or stray)
            inside, ended = False, True
    return found


def _message_text(message: str) -> str:
    """A message of gpt-oss without its header; nothing of one that is meant for a tool."""
    return "" if _TO_A_TOOL in message else _HEADER_OR_END.sub("", message)
