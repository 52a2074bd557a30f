"""Servers without LED: a request that asks for LED is refused, every other one goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from led_sglang.methods.placement import named_method
from led_sglang.methods.request import parse_request
from led_sglang.methods.values import ParameterError
from led_sglang.patches import inactive

ASKS: list[tuple[Any, str]] = [
    ({"custom_params": {"sampler": "led"}}, "led"),
    ({"custom_params": {"led": {}}}, "led"),
    ({"custom_params": {"dola": {"layers": "low"}}}, "dola"),
    ({"sampling_params": {"custom_params": {"sampler": "soft-thinking"}}}, "soft-thinking"),
    ({"sampling_params": [{}, {"custom_params": {"led": {}}}]}, "led"),
    ({"parameters": {"sampling_params": {"custom_params": {"sampler": "dola"}}}}, "dola"),
    ({"options": {"custom_params": {"sampler": "led"}}}, "led"),
    # where no server would read it
    ({"sampler": "led"}, "led"),
    ({"led": {"depth": 4}}, "led"),
    ({"extra_body": {"custom_params": {"sampler": "LED"}}}, "led"),
    ({"customParams": {"sampler": "soft_thinking"}}, "soft-thinking"),
]
GOES_ON: list[Any] = [
    {"custom_params": {"sampler": "regular"}},
    # of a custom logit processor, or of nothing that this package knows
    {"custom_params": {"thinking_budget": 5, "token_ids": [1], "sampler": "mine", "led": 3}},
    {"metadata": {"sampler": "led"}, "sampler": 3, "led": "on"},
    {"messages": [{"role": "user", "content": '{"sampler": "led"}'}], "custom_params": None},
    {"custom_params": [1], "options": "x"},
    ["led"],
    "led",
    None,
]


def read(body: Any) -> Any:
    async def parsing() -> Any:
        return body

    return asyncio.run(inactive._read_body(parsing(), None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("body", "name"), ASKS)
def test_a_request_that_asks_for_a_method_is_refused(body: Any, name: str) -> None:
    assert named_method(body) == name
    with pytest.raises(HTTPException) as refused:
        read(body)
    assert refused.value.status_code == 400
    assert f"the request asks for {name}" in refused.value.detail
    assert f"--sampler {name}" in refused.value.detail


@pytest.mark.parametrize("body", GOES_ON)
def test_what_does_not_goes_on_as_it_is(body: Any) -> None:
    assert read(body) is body


def test_a_server_that_offers_regular_alone_refuses_the_others() -> None:
    settings: Any = SimpleNamespace(sampler="regular", enabled=("regular",))
    assert parse_request({"sampler": "regular"}, settings, foreign_keys=False).params is None
    assert parse_request(None, settings, foreign_keys=False).sampler == "regular"
    for custom in ({"sampler": "led"}, {"led": {}}, {"dola": {}}, {"sampler": "soft-thinking"}):
        for foreign_keys in (False, True):
            with pytest.raises(ParameterError, match="start the server with --enable-samplers"):
                parse_request(custom, settings, foreign_keys=foreign_keys)
