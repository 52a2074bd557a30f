"""An answer ends inside a draft where it would end without drafts."""

from __future__ import annotations

import string
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.managers.schedule_batch import Req

from led_sglang.patches import batch_state
from led_sglang.patches.speculation import stops

EOS = 25
NOTHING_ASKED = {
    "stop_strs": [],
    "stop_str_max_len": 3,
    "stop_regex_strs": [],
    "stop_regex_max_len": 3,
    "stop_token_ids": None,
    "ignore_eos": False,
    "max_new_tokens": 100,
}


def ended(draft: str, notes: bool = True, **asked: Any) -> tuple[str, str]:
    """What is kept of an answer "ab" and the tokens of a draft, a letter each; and why it ends."""
    request: Any = Req.__new__(Req)
    vars(request).update(
        output_ids=[string.ascii_lowercase.index(letter) for letter in "ab" + draft],
        finished_reason=None,
        finished_len=None,
        to_finish=None,
        vocab_size=EOS + 1,
        eos_token_ids={EOS},
        decoded_text="",
        grammar=None,
        tokenizer=SimpleNamespace(
            decode=lambda ids: "".join(string.ascii_lowercase[i] for i in ids),
            eos_token_id=EOS,
            additional_stop_token_ids=None,
        ),
        sampling_params=SimpleNamespace(**NOTHING_ASKED | asked),
    )
    if notes:
        setattr(request, batch_state._NOTES_ATTRIBUTE, object())
    kept = list(request.output_ids)
    stops._look_token_by_token(Req.update_finish_state, request, len(draft))
    assert request.output_ids == kept
    if request.finished_reason is None:
        return "", ""
    kept = kept[: request.finished_len]
    return "".join(string.ascii_lowercase[i] for i in kept), type(request.finished_reason).__name__


CASES = [
    ({"stop_strs": ["f", "d"]}, "abcd", "FINISH_MATCHED_STR"),
    ({"stop_strs": ["z", "ef"]}, "abcdef", "FINISH_MATCHED_STR"),
    ({"stop_strs": ["bc"]}, "abc", "FINISH_MATCHED_STR"),
    ({"stop_regex_strs": ["f", "[de]"]}, "abcd", "FINISHED_MATCHED_REGEX"),
    ({"stop_regex_strs": ["f"], "stop_strs": ["g"]}, "abcdef", "FINISHED_MATCHED_REGEX"),
    ({"stop_strs": ["g"], "max_new_tokens": 4}, "abcd", "FINISH_LENGTH"),
    ({"stop_strs": ["g"], "stop_token_ids": {4}}, "abcde", "FINISH_MATCHED_TOKEN"),
    ({"stop_strs": ["q"]}, "", ""),
]


@pytest.mark.parametrize(("asked", "kept", "reason"), CASES)
def test_the_first_stop_ends_an_answer(asked: dict[str, Any], kept: str, reason: str) -> None:
    found = ended("cdefgh", **asked)
    assert found == (kept, reason)
    by_one = [ended("cdefgh"[:count], **asked) for count in range(1, 7)]
    assert next((one for one in by_one if one[1]), ("", "")) == (kept, reason)


def test_an_end_of_the_answer_before_a_stop_counts() -> None:
    assert ended("czdef", stop_strs=["e"]) == ("abcz", "FINISH_MATCHED_TOKEN")
    assert ended("czdef", stop_strs=["e"], ignore_eos=True) == ("abczde", "FINISH_MATCHED_STR")


def test_regular_requests_end_as_the_engine_ends_them() -> None:
    assert ended("czdef", notes=False, stop_strs=["f", "d"]) == ("abczdef", "FINISH_MATCHED_STR")
