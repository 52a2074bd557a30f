"""Single requests that would end SGLang's scheduler, or be HTTP 500, are HTTP 400, and the server
goes on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from harness import Server

from .test_endpoints import assert_refused

VOCABULARY = 261
SAMPLING = {"max_new_tokens": 2}
Body = dict[str, Any]


def generate(sampling: Body | None = None, **body: Any) -> tuple[str, Body, Body]:
    prompt = {} if "input_ids" in body else {"text": "What"}
    return "/generate", prompt | {"sampling_params": SAMPLING | (sampling or {})}, body


def completion(**body: Any) -> tuple[str, Body, Body]:
    return "/v1/completions", {"model": "m", "prompt": "What", "max_tokens": 2}, body


def chat(**body: Any) -> tuple[str, Body, Body]:
    messages = [{"role": "user", "content": "What"}]
    return "/v1/chat/completions", {"model": "m", "messages": messages, "max_tokens": 2}, body


def vertex(**sampling: Any) -> tuple[str, Body, Body]:
    body = {"instances": [{"text": "What"}]}
    return "/vertex_generate", body, {"parameters": {"sampling_params": SAMPLING | sampling}}


def ollama(**options: Any) -> tuple[str, Body, Body]:
    body = {"model": "m", "prompt": "What", "stream": False}
    return "/api/generate", body, {"options": {"num_predict": 2} | options}


EMPTY = "the prompt is empty"
TOO_MANY = "top log-probabilities must be at most 261"
OUTSIDE = "input_ids must lie in 0..260"
UNLOADABLE = "custom_logit_processor cannot be loaded"
NO_LIST = "must be no list where there is one prompt"
NO_REGEX = "stop_regex is no regular expression"
NO_TOKEN = "the grammar allows no token after the first"
ENDING: list[tuple[tuple[str, Body, Body], str]] = [
    (generate(text=""), EMPTY),
    (generate(text="", sampling_params={"max_new_tokens": 0}), EMPTY),
    (generate(text=["What", ""]), EMPTY),
    (generate(input_ids=[[]]), EMPTY),
    (generate(input_ids=[[5], []]), EMPTY),
    (generate(text="", session_id="s"), EMPTY),
    (completion(prompt=["What", ""]), EMPTY),
    (generate(return_logprob=True, top_logprobs_num=VOCABULARY + 1), TOO_MANY),
    (generate(return_logprob=True, top_logprobs_num=2**40, logprob_start_len=0), TOO_MANY),
    (
        generate(text=["a", "b"], return_logprob=True, top_logprobs_num=[2, VOCABULARY + 1]),
        TOO_MANY,
    ),
    (completion(logprobs=VOCABULARY + 1), TOO_MANY),
    (completion(logprobs=10**6, echo=True), TOO_MANY),
    (chat(logprobs=True, top_logprobs=VOCABULARY + 1), TOO_MANY),
    (generate(return_logprob=True, logprob_start_len=-5), "logprob_start_len"),
    (generate(input_ids=[VOCABULARY]), OUTSIDE),
    (generate(input_ids=[5, -1]), OUTSIDE),
    (generate(input_ids=[[5], [2**40]]), OUTSIDE),
    (completion(prompt=[5, VOCABULARY]), OUTSIDE),
    (generate({"top_k": 2**31}), "top_k must be at most"),
    (completion(top_k=2**40), "top_k must be at most"),
    (chat(top_k=2**40), "top_k must be at most"),
    (generate({"min_new_tokens": 1, "stop_token_ids": [5, VOCABULARY]}), "stop_token_ids must"),
    (generate({"min_new_tokens": 1, "stop_token_ids": [-1]}), "stop_token_ids must"),
    (chat(min_tokens=1, stop_token_ids=[VOCABULARY]), "stop_token_ids must"),
    (generate({"logit_bias": {"5": 1e39}}), "logit_bias must lie in"),
    (chat(logit_bias={"5": -1e39}), "logit_bias must lie in"),
    (chat(logit_bias={"5": 3e38}, temperature=0.5), "logit_bias must lie in"),
    (chat(repetition_penalty=1e-38, temperature=0.1, top_p=0.9), "repetition_penalty"),
    (vertex(top_k=2.5), "top_k"),
    (vertex(skip_special_tokens="x"), "skip_special_tokens"),
    (vertex(json_schema={"type": "object"}), "json_schema"),
    (vertex(logit_bias={"5": None}), "logit_bias"),
    (ollama(top_k=2.5), "top_k"),
    (ollama(num_predict=2.5), "max_new_tokens"),
    (ollama(top_k=2**40), "top_k must be at most"),
    (ollama(temperature=-1), "temperature"),
    (generate(positional_embed_overrides={"a": 1}), "positional_embed_overrides"),
    (generate(text=["a", "b"], positional_embed_overrides=[1, 2]), "positional_embed_overrides"),
    (generate(custom_logit_processor="no JSON"), UNLOADABLE),
    (generate(custom_logit_processor='{"callable": "80"}'), UNLOADABLE),
    (generate(custom_logit_processor="{}"), UNLOADABLE),
    (generate(text=["a", "b"], custom_logit_processor=[None, "x"]), UNLOADABLE),
    (chat(custom_logit_processor='{"callable": "zz"}'), UNLOADABLE),
    (generate(rid=["a"]), f"rid {NO_LIST}"),
    (completion(rid=["a"]), f"rid {NO_LIST}"),
    (chat(rid=[]), f"rid {NO_LIST}"),
    (generate(sampling_params=[SAMPLING]), f"sampling_params {NO_LIST}"),
    (generate(return_logprob=True, top_logprobs_num=[1, 2]), f"top_logprobs_num {NO_LIST}"),
    (generate(return_logprob=True, logprob_start_len=[0]), f"logprob_start_len {NO_LIST}"),
    (generate(text=["a", "b"], rid=["a"]), "rid has 1 elements and the request 2 prompts"),
    (generate(text=["a", "b"], sampling_params=[SAMPLING]), "sampling_params has 1 elements"),
    (generate({"n": 2}, input_ids=[[5], [6]], rid=[]), "rid has 0 elements"),
    (generate(input_ids=[[5], [6]], return_logprob=[True]), "return_logprob has 1 elements"),
    (generate(text=["a", "b"], token_ids_logprob=[[1]]), "token_ids_logprob has 1 elements"),
    (generate(text=["a", "b"], custom_logit_processor=[]), "custom_logit_processor has 0 elements"),
    (generate(text=["a", "b"], lora_path=[None]), "lora_path has 1 elements"),
    (generate({"n": None}), "n must be a whole number from 1 up"),
    (generate({"n": 0}, text=["a", "b"]), "n must be a whole number from 1 up"),
    (generate({"stop_regex": "("}), NO_REGEX),
    (generate({"stop_regex": ["a", "b**"]}), NO_REGEX),
    (generate({"stop_regex": "(?<=a*)b"}), NO_REGEX),
    (generate({"stop_regex": "a{99999999999999999}"}), NO_REGEX),
    (completion(stop_regex="("), NO_REGEX),
    (chat(stop_regex=["a", "["]), NO_REGEX),
    (generate(text=None, input_embeds=[]), "input_embeds is empty"),
    (generate(text=None, input_embeds=[[]]), "input_embeds is empty"),
    (generate(text=None, input_embeds=[[[]], [[1.0]]]), "input_embeds is empty"),
    (chat(response_format="json_object"), "response_format must be an object"),
    (chat(response_format={"type": "json_schema", "schema": "x"}), "response_format.schema must"),
    (generate({"json_schema": '{"$ref": "#"}', "top_p": 0.9}), NO_TOKEN),
    (generate({"ebnf": "root ::= root", "temperature": 0}), NO_TOKEN),
    (generate({"regex": "a", "min_new_tokens": 5, "max_new_tokens": 8, "top_k": 3}), NO_TOKEN),
    (completion(ebnf="root ::= root", top_p=0.9), NO_TOKEN),
    (
        generate({"ebnf": "root ::= root", "top_p": 0.9, "custom_params": {"sampler": "regular"}}),
        NO_TOKEN,
    ),
]


def lives(server: Server) -> bool:
    return len(server.generate([5, 6], max_new_tokens=2, ignore_eos=True)["output_ids"]) == 2


@pytest.mark.parametrize(("request_", "sentence"), ENDING)
def test_what_would_end_the_scheduler(
    server: Server, request_: tuple[str, Body, Body], sentence: str
) -> None:
    path, base, extra = request_
    assert_refused(server.post(path, base | extra), sentence)
    # Many of SGLang's streams are opened first; the refusal is inside, and ends them.
    response = server.post(path, base | extra | {"stream": True})
    assert sentence in response.text
    assert response.status_code == 400 or re.search(r'"(status_)?code": ?400', response.text)
    assert lives(server)


def test_a_stop_regex_that_backtracks_for_ever(server: Server) -> None:
    expression = r"([\s\S]*)*(?!)"  # whatever the model has written
    sampling = {"stop_regex": expression, "max_new_tokens": 200, "ignore_eos": True}
    response = server.post("/generate", {"text": "What", "sampling_params": sampling})
    assert_refused(response, "invalid stop_regex", "a search took more than 1 s")
    assert lives(server)


def test_a_body_that_is_no_object(server: Server) -> None:
    for path in ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/messages"):
        for body in ([], "text", 5, [{"text": "What"}]):
            assert_refused(server.post(path, body), "the body must be an object")  # type: ignore[arg-type]


def test_a_grammar_that_no_text_fits_ends_its_own_request_alone(server: Server) -> None:
    """Those in the same batch get the tokens they get beside any other grammar."""
    greedy = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    good = greedy | {"custom_params": {"led": {"gate": "always"}}}
    tokens = []
    for ebnf in ("root ::= root", 'root ::= "a" root'):
        sampling = [good, greedy | {"top_p": 0.9, "temperature": 1, "ebnf": ebnf}, greedy]
        body = {"text": ["What", "Why", "Who"], "sampling_params": sampling, "stream": True}
        events = [
            json.loads(line.removeprefix("data: "))
            for line in server.post("/generate", body).text.splitlines()
            if line.startswith("data: {")
        ]
        last = {event["index"]: event for event in events}
        finishes = [last[index]["meta_info"]["finish_reason"]["type"] for index in (0, 1, 2)]
        assert finishes == ["length", "abort" if "a" not in ebnf else "length", "length"]
        tokens.append([last[index]["output_ids"] for index in (0, 2)])
    assert tokens[0] == tokens[1]
    assert all(len(found) == 12 for found in tokens[0])


def test_what_sglang_can_do_goes_on(server: Server) -> None:
    """The edge of each guard."""
    for path, base, extra in (
        generate(return_logprob=True, top_logprobs_num=VOCABULARY, logprob_start_len=0),
        generate(top_logprobs_num=VOCABULARY + 1),
        generate(input_ids=[0, VOCABULARY - 1]),
        generate({"top_k": 2**30}),
        chat(logit_bias={"5": 1e38, "6": -1e38}, temperature=0.5),
        generate({"stop_token_ids": [VOCABULARY]}),
        generate({"min_new_tokens": 1, "stop_token_ids": [VOCABULARY - 1]}),
        completion(prompt=[5, 6], logprobs=2, echo=True),
        chat(logprobs=True, top_logprobs=5),
        generate(text=["a", "b"], rid="x", sampling_params=[SAMPLING, SAMPLING]),
        generate({"n": 2}, rid=["x"], token_ids_logprob=[5], return_logprob=True),
        generate({"n": 2}, input_ids=[[5], [6]], rid=["x", "y"]),
        generate(text=["a", "b"], return_logprob=[True, False], top_logprobs_num=[1, 0]),
        generate({"stop_regex": ["[a-z]+(?=b)", r"(\d|\w)*\."], "max_new_tokens": 32}),
        generate({"regex": "ab+c", "min_new_tokens": 3, "max_new_tokens": 9, "top_p": 0.9}),
        chat(response_format={"type": "json_object"}),
    ):
        response = server.post(path, base | extra)
        assert response.status_code == 200, (path, extra, response.text)
    assert lives(server)
