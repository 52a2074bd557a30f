"""Traces as objects: the method's numbers from an entry, tables, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import numpy as np
import pytest

from led_sglang.cli import main
from led_sglang.common import extras
from led_sglang.trace import Trace, TraceError, TraceSettings, first_divergence
from led_sglang.trace.ask import run_trace
from led_sglang.trace.page import render_page

# Two candidates, three rows; numbers exact in binary, so expectations are exact too.
ENTRY: dict[str, Any] = {
    "token_id": 3,
    "phase": "think",
    "explored": True,
    "depth": 2,
    "p1": 0.5,
    "entropy": 1.25,
    "candidate_ids": [7, 3],
    "candidate_probs": [0.5, 0.25],
    "layer_probs": [[0.5, 0.25], [0.25, 0.5], [0.75, 0.0]],
    "behaviour_probs": [0.58, 0.42],
    "behaviour_logprob": math.log(0.42),
    "explore_probability": 0.5,
    "gate_draw": 0.125,
}
META: dict[str, Any] = {"led_trace": [ENTRY, {"token_id": 9, "phase": "response"}]}
RESPONSE: dict[str, Any] = {"output_ids": [3, 9], "meta_info": META}
SETTINGS = TraceSettings(gate="confidence", num_layers=12)


class _Client:
    """Answers of a server whose tokens are characters."""

    base_url = "http://server"

    def __init__(self, prompt: str, answer: str) -> None:
        self.prompt, self.answer = prompt, answer

    def led_settings(self) -> dict[str, Any]:
        delimiters = {"think_start": "(", "think_end": ")", "tool_start": "{!"}
        return {**delimiters, "boundary_ids": [ord("#")]}

    def chat_tokens(self, prompt: str) -> list[int]:
        return [ord(character) for character in self.prompt]

    def tokens(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def generate(self, prompt_ids: Any, sampling: Any) -> dict[str, Any]:
        ids = [ord(character) for character in self.answer]
        return {"output_ids": ids, "meta_info": {"sampler": {"name": "regular"}}}

    def model_path(self) -> str:
        return "model"

    def texts(self, sequences: Any) -> list[str]:
        return ["".join(map(chr, ids)) for ids in sequences]


@pytest.mark.parametrize(
    ("prompt", "answer", "phases"),
    [
        pytest.param("#(", "hm)a", "TTTR", id="the-template-opens-a-thought"),
        pytest.param("what is ( here?#", "a(b", "BBT", id="the-user-writes-the-opening-tag"),
        pytest.param("(hm)#", "a(b", "BBT", id="an-earlier-turn-thought"),
        pytest.param("#(", "a{!b)c", "TTTRRR", id="a-tool-call-in-a-thought"),
    ],
)
def test_phases_of_a_completion_without_a_trace(prompt: str, answer: str, phases: str) -> None:
    client: Any = _Client(prompt, answer)
    trace = run_trace(client, "?", sampler="regular")
    assert "".join(token.phase[0].upper() for token in trace.tokens) == phases


def read(response: dict[str, Any] = RESPONSE, **options: Any) -> Trace:
    return Trace.from_response(response, **{"settings": SETTINGS, **options})


def test_cumulative_posteriors_and_entropies() -> None:
    step = read().tokens[0].step
    assert step is not None
    # c = (.5 .25), (.75 .75), (1.5 .75)
    np.testing.assert_allclose(step.cumulative, [[2 / 3, 1 / 3], [0.5, 0.5], [2 / 3, 1 / 3]])
    third = math.log(3) - 2 / 3 * math.log(2)
    np.testing.assert_allclose(step.entropies, [third, math.log(2), third])
    assert step.entropies.argmax() + 1 == step.depth


def test_a_candidate_without_mass_adds_no_entropy() -> None:
    response = copy.deepcopy(RESPONSE)
    response["meta_info"]["led_trace"][0]["layer_probs"] = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    step = read(response).tokens[0].step
    assert step is not None
    assert [str(entropy) for entropy in step.entropies] == ["0.0"] * 3  # none is -0.0


def test_explore_probability_is_the_servers_own() -> None:
    step = read().tokens[0].step
    assert step is not None
    assert step.explore_probability == 0.5
    older = copy.deepcopy(RESPONSE)
    del older["meta_info"]["led_trace"][0]["explore_probability"]
    step = read(older).tokens[0].step
    assert step is not None
    assert step.explore_probability is None


def test_rows_name_their_layers() -> None:
    paper = TraceSettings(num_layers=12)
    release = TraceSettings(num_layers=12, release_layers=True)
    assert [paper.layer(d) for d in (1, 2, 3)] == [12, 11, 10]
    assert [release.layer(d) for d in (1, 2, 3)] == [12, 10, 9]
    assert TraceSettings().layer(2) is None


def test_tables() -> None:
    trace = read(token_texts={3: " wait", 7: " so", 9: "."})
    tokens = trace.to_pandas()
    assert tokens.text.tolist() == [" wait", "."]
    assert tokens.phase.tolist() == ["think", "response"]
    assert tokens.loc[0, ["depth", "layer", "gate_draw"]].tolist() == [2, 11, 0.125]
    assert tokens.loc[1, ["explored", "depth", "p1", "layer"]].isna().all()
    layers = trace.layers_to_pandas()
    assert len(layers) == 3 * 2
    row = layers[(layers.depth == 2) & (layers.token_id == 3)].iloc[0]
    assert (row.text, row.layer, row["rank"], row.p, row.a) == (" wait", 11, 1, 0.5, 0.5)
    assert row.entropy == pytest.approx(math.log(2))


def test_a_chat_answer_is_read_as_well() -> None:
    other = copy.deepcopy(META)
    other["led_trace"][1]["token_id"] = 5
    answer = {"choices": [{"index": 0, "meta_info": META}, {"index": 1, "meta_info": other}]}
    assert read(answer).to_pandas().equals(read().to_pandas())
    assert [token.token_id for token in read(answer, choice=1).tokens] == [3, 5]


def test_first_divergence() -> None:
    def run(*ids: int) -> Trace:
        entries = [{"token_id": i, "phase": "response"} for i in ids]
        return read({"meta_info": {"led_trace": entries}})

    assert first_divergence(run(1, 2, 3), run(1, 2, 3)) is None
    assert first_divergence(run(1, 2, 3), run(1, 5, 3)) == 1
    assert first_divergence(run(1, 2), run(1, 2, 3)) == 2


def without(key: str) -> dict[str, Any]:
    response = copy.deepcopy(RESPONSE)
    del response["meta_info"]["led_trace"][0][key]
    return response


def of(entries: Any) -> dict[str, Any]:
    return {"meta_info": {"led_trace": entries}}


BAD: list[tuple[Any, str]] = [
    ({"text": "x", "output_ids": [1], "meta_info": {"id": "a"}}, '"trace": true'),
    ({"choices": [{"message": {}, "meta_info": {"id": "a"}}]}, '"trace": true'),
    ({"choices": [{"message": {}}]}, '"return_meta_info": true'),
    ({"choices": []}, "no choice 0"),
    ({"error": {"message": "no"}}, "meta_info"),
    ([RESPONSE], "not one answer"),
    (of("x"), "list"),
    (of([{"token_id": 1, "phase": "dream"}]), "dream"),
    (of([None]), "cannot be read"),
    (without("token_id"), "token_id"),
    (without("p1"), "p1"),
    (without("phase"), "phase"),
    (without("candidate_ids"), "candidate_ids"),
    (of([ENTRY | {"layer_probs": [[1.0]]}]), "does not fit"),
]


@pytest.mark.parametrize(("response", "named"), BAD)
def test_bad_responses_are_refused_by_name(response: Any, named: str) -> None:
    with pytest.raises(TraceError, match=re.escape(named)):
        read(response)


def test_a_page_shows_one_trace_or_two() -> None:
    with pytest.raises(ValueError, match="not 3"):
        render_page([read()] * 3)


def test_page_embeds_text_without_any_tag() -> None:
    evil = "</script><script>alert(1)</script><!-- @@STYLE@@ & \u2028"
    page = render_page([read(prompt=evil, token_texts={3: evil, 7: "a", 9: "b"})])
    assert "alert(1)</script>" not in page
    assert page.count("<script") == page.count("</script>") == 2
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert match is not None
    assert not set("<>&") & set(match[1])
    run = json.loads(match[1])["runs"][0]
    assert run["prompt"] == evil
    assert evil in run["texts"]


def test_page_asks_nothing_of_the_network() -> None:
    page = render_page([read()])
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|\bimport\b|\bfetch\b|@import|url\(", page)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--temperature", "nan"], "--temperature: 'nan' is not a number from 0 up"),
        (["--top-p", "5"], "--top-p: '5' is not a number from 0 to 1"),
        (["--max-new-tokens", "0"], "--max-new-tokens: '0' is not a whole number from 1 up"),
        (["--prompt", "\udcff"], "--prompt: the text is not UTF-8"),
    ],
)
def test_what_was_typed_wrongly_is_one_sentence(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a server is asked, which would be blamed for it."""
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--prompt", "x", *flags])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(extras.MissingExtra, match=r"led-sglang\[analysis\]"):
        read().to_pandas()
