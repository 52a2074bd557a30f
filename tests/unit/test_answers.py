"""Who made an answer is held against who was asked, wherever the answer says it."""

from __future__ import annotations

from typing import Any

import pytest

from led_sglang.bench.plan import Arm
from led_sglang.bench.watch import ServerView
from led_sglang.common.address import ServerError
from led_sglang.common.answers import Answerer
from led_sglang.trace.ask import check_answerer

KNOWN = ("led", "dola", "regular")
LED = {"sampler": {"name": "led", "settings": {"depth": 8, "layers": [2, 4], "gate": "always"}}}


@pytest.mark.parametrize(
    "answerer",
    [
        Answerer(LED),
        Answerer(None, "led"),
        Answerer(None, None, "m:led"),
        Answerer({}, None, "gateway/m:tuned:led"),
        Answerer(LED, "led", "a name of the gateway's own"),
    ],
)
def test_one_place_is_enough(answerer: Answerer) -> None:
    assert answerer.complaint("led", {}, KNOWN) is None
    wrong = answerer.complaint("regular", {}, KNOWN)
    assert wrong is not None
    assert 'asked for the sampler "regular", and "led" answered: a gateway' in wrong


def test_settings_count_too() -> None:
    for params in ({}, {"depth": 8}, {"depth": 8.0}, {"layers": "low"}, {"unknown": 1}):
        assert Answerer(LED).complaint("led", params, KNOWN) is None
    wrong = Answerer(LED).complaint("led", {"gate": "never"}, KNOWN)
    assert wrong is not None
    assert "gate = never, and answered with always: a gateway" in wrong


def test_an_answer_that_says_nothing_is_no_answer_of_the_right_one() -> None:
    for meta_info in (None, {}, {"sampler": None}):
        for model in (None, "m", "m:v1", "openai/m"):
            wrong = Answerer(meta_info, None, model).complaint("regular", {}, KNOWN)
            assert wrong is not None
            assert "does not say which sampler" in wrong


def test_settings_that_no_answer_states_are_not_taken_for_those_asked_for() -> None:
    """A gateway that strips meta_info is likely to have dropped custom_params as well."""
    for answerer in (Answerer(None, "led"), Answerer({"sampler": {"name": "led"}}, "led")):
        assert answerer.complaint("led", {}, KNOWN) is None
        wrong = answerer.complaint("led", {"depth": 4, "gate": "always"}, KNOWN)
        assert wrong is not None
        assert "asked for led with depth, gate, and does not say with which settings" in wrong


class _Client:
    """A server whose gateway drops custom_params."""

    base_url = "http://gateway"

    def generate(self, *_: Any) -> dict[str, Any]:
        return {"output_ids": [1], "meta_info": LED}


def test_bench_and_trace_end_there() -> None:
    view = ServerView("http://gateway", ())
    client: Any = _Client()
    view._client = client
    for arm in (Arm("led", {"sampler": "led", "led": {"depth": 8}}), Arm("plain", None)):
        view.check_answerer(arm)
    for custom in ({"sampler": "regular"}, {"sampler": "led", "led": {"depth": 2}}):
        with pytest.raises(ServerError, match="http://gateway was asked for"):
            view.check_answerer(Arm("arm", custom))
        with pytest.raises(ServerError, match="http://gateway was asked for"):
            check_answerer(client, custom, client.generate())
