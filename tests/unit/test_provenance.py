"""What a report says of its making: no secrets, and no commit of somebody else's repository."""

from __future__ import annotations

import re

import pytest

from led_sglang.common.provenance import command_line, commit, processor


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["serve", "--api-key", "abc", "--tp", "2"], "serve --api-key ... --tp 2"),
        (["serve", "--api-key=abc"], "serve --api-key=..."),
        (["serve", "--ssl-keyfile-password", "a b"], "serve --ssl-keyfile-password ..."),
        (["eval", "--launch", "-m x --api-key abc --tp 2"],
         "eval --launch '-m x --api-key ... --tp 2'"),
        (["eval", "--max-tokens", "4", "--tokenizer-path", "x"],
         "eval --max-tokens 4 --tokenizer-path x"),
    ],
)  # fmt: skip
def test_a_command_is_shown_without_its_secrets(argv: list[str], shown: str) -> None:
    assert command_line(argv) == shown


def test_code_and_machine_are_named() -> None:
    found = commit()  # none where git is not there, or does not trust the folder
    assert found is None or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", found)
    assert re.fullmatch(r"\d+-core \S+ CPU \(.+\)", processor())
