"""docs/adding.md's method: one folder and one line in the registry, on a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Server, serve

NAME = "nth-likeliest"
GREEDY = {"temperature": 0.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    flags = ("--sampler", NAME, "--enable-samplers", "led")
    with serve(model_path, *flags, command=("-m", "nth_likeliest.serve")) as running:
        yield running


def custom(place: int) -> dict[str, Any]:
    return {"sampler": NAME, NAME: {"place": place}}


@pytest.mark.parametrize("place", [1, 2, 5])
def test_every_token_is_the_nth_likeliest(
    server: Server, prompts: list[Sequence[int]], place: int
) -> None:
    answer = server.generate(
        prompts[0], custom(place), return_logprob=True, top_logprobs_num=8, **GREEDY
    )
    likeliest = [
        [token for _, token, _ in top] for top in answer["meta_info"]["output_top_logprobs"]
    ]
    assert len(likeliest) == 12
    assert answer["output_ids"] == [top[place - 1] for top in likeliest]


def test_methods_share_a_batch(server: Server, prompts: list[Sequence[int]]) -> None:
    asked: list[Any] = [custom(2), {"sampler": "regular"}, {"sampler": "led"}, None, custom(3)]
    alone = [server.generate(prompts[1], each, **GREEDY)["output_ids"] for each in asked]
    together = server.generate_batch([(prompts[1], each, GREEDY) for each in asked])
    assert [answer["output_ids"] for answer in together] == alone
    # The default of the method is the likeliest token.
    assert alone[3] == alone[1]
    assert alone[0] != alone[1]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"place": 9}, "nth-likeliest.place must be an integer in 1..8"),
        ({"rank": 1}, "nth-likeliest.rank is unknown; allowed: place"),
    ],
)
def test_its_parameters_are_checked(
    server: Server, prompts: list[Sequence[int]], group: dict[str, Any], message: str
) -> None:
    sampling = {"custom_params": {NAME: group}, "max_new_tokens": 1}
    response = server.post("/generate", {"input_ids": prompts[0], "sampling_params": sampling})
    assert response.status_code == 400
    assert message in response.text
