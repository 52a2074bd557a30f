"""A model's name chooses the sampler on every endpoint, and every answer says who made it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import requests
from harness import Server
from preloaded import Forked, run_module

from led_sglang.cli import main
from led_sglang.common.answers import SAMPLER_HEADER

from .test_endpoints import BODIES, KNOWN, LED, REGULAR, answer, assert_refused, texts
from .test_grpc import BODY, call

# What a name ends with, the same as `custom_params`, and the sampler that the answer names.
CHOICES = [("led-always-explore", LED, "led"), ("regular", REGULAR, "regular")]
MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]
SAMPLING: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "seed": 3}


@pytest.fixture(scope="module")
def served(server: Server) -> str:
    """The model's own name."""
    name: str = server.get("/v1/models").json()["data"][0]["id"]
    return name


@pytest.fixture(scope="module")
def by_params(server: Server, served: str) -> dict[tuple[str, str], str]:
    """By endpoint and label, what `custom_params` gets on the two endpoints with known answers."""
    return {
        (path, label): answer(
            server,
            path,
            BODIES[path]({"custom_params": custom}) | {"model": served},
        )
        for path in set(KNOWN.values())
        for label, custom, _ in CHOICES
    }


@pytest.mark.parametrize("path", BODIES)
def test_a_name_chooses_as_custom_params_do(
    server: Server, served: str, by_params: dict[tuple[str, str], str], path: str
) -> None:
    """The same tokens, streamed or not; header and `model` name who made them."""
    found = {}
    for label, _, sampler in CHOICES:
        by_name = BODIES[path]({}) | {"model": f"{served}:{label}"}
        response = server.post(path, by_name)
        assert response.status_code == 200, response.text
        assert response.headers[SAMPLER_HEADER] == sampler
        found[label] = texts(response.json())
        assert found[label] == by_params[KNOWN[path], label]
        if path.startswith(("/v1", "/invocations")):
            assert response.json()["model"] == f"{served}:{label}"
        if path == "/vertex_generate":  # knows no streams
            continue
        stream = server.post(path, by_name | {"stream": True})
        assert stream.headers[SAMPLER_HEADER] == sampler
        lines = [line.removeprefix("data: ") for line in stream.text.splitlines()]
        pieces = [texts(json.loads(line)) for line in lines if line.startswith("{")]
        # As in test_endpoints.py: some end with the whole answer, some without the last token.
        whole = pieces[-1] if path in ("/generate", "/v1/responses") else "".join(pieces)
        assert found[label].startswith(whole)
        assert len(whole) > len(found[label]) // 2
    assert len(set(found.values())) == 2


def test_without_a_choice_the_name_says_the_default(server: Server, served: str) -> None:
    for model in (None, served):
        body = {"messages": MESSAGES, **SAMPLING} | ({"model": model} if model else {})
        response = server.post("/v1/chat/completions", body)
        assert response.json()["model"] == f"{served}:led"
        assert response.headers[SAMPLER_HEADER] == "led"
    chosen = server.post("/v1/chat/completions", body | {"custom_params": REGULAR}).json()
    assert chosen["model"] == f"{served}:regular"


def test_meta_info_names_the_sampler_of_each_sample(server: Server) -> None:
    sampling = {"max_new_tokens": 2, "ignore_eos": True}
    body = {
        "input_ids": [[5, 6]] * 3,
        "sampling_params": [
            sampling | {"custom_params": REGULAR},
            sampling,
            sampling | {"custom_params": {"led": {"depth": 3}}},
        ],
    }
    response = server.post("/generate", body)
    assert response.headers[SAMPLER_HEADER] == "regular, led"
    regular, led, deep = (a["meta_info"]["sampler"] for a in response.json())
    assert regular == {"name": "regular", "settings": {}}
    assert led["name"] == deep["name"] == "led"
    assert led["settings"]["depth"] == 8
    assert deep["settings"] == led["settings"] | {"depth": 3}
    body = {"input_ids": [5, 6], "sampling_params": sampling | {"n": 2, "custom_params": REGULAR}}
    several = server.post("/generate", body).json()
    assert [a["meta_info"]["sampler"]["name"] for a in several] == ["regular"] * 2
    with requests.post(
        server.url + "/generate", json=body | {"stream": True}, timeout=60
    ) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith(b"data: {")]
    assert {json.loads(line[6:])["meta_info"]["sampler"]["name"] for line in lines} == {"regular"}


def test_openai_clients_see_and_choose(server: Server, served: str) -> None:
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
    listed = [model.id for model in client.models.list()]
    assert listed[:3] == [served, f"{served}:led", f"{served}:regular"]
    assert f"{served}:led-always-explore" in listed
    assert client.models.retrieve(f"{served}:regular").id == f"{served}:regular"
    for label, custom, sampler in CHOICES:
        ask: dict[str, Any] = {"messages": MESSAGES, **SAMPLING, "temperature": 0.8, "n": 2}
        raw = client.chat.completions.with_raw_response.create(model=f"{served}:{label}", **ask)
        assert raw.headers[SAMPLER_HEADER] == sampler
        by_params = client.chat.completions.create(
            model=served, extra_body={"custom_params": custom}, **ask
        )
        by_name = raw.parse()
        assert by_name.model == f"{served}:{label}"
        assert by_params.model == f"{served}:{sampler}"
        if sampler == "led":  # seeds are LED's
            contents = [[c.message for c in done.choices] for done in (by_name, by_params)]
            assert contents[0] == contents[1]
        chunks = client.chat.completions.create(model=f"{served}:{label}", **ask, stream=True)
        assert {chunk.model for chunk in chunks} == {f"{served}:{label}"}
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model=f"{served}:nosuch", messages=MESSAGES)  # type: ignore[arg-type]


def test_curl_chooses(server: Server, served: str) -> None:
    url = server.url + "/v1/chat/completions"
    for label, custom, _ in CHOICES:
        found = []
        for own in ({"model": f"{served}:{label}"}, {"model": served, "custom_params": custom}):
            data = json.dumps({"messages": MESSAGES, **SAMPLING} | own)
            command = ["curl", "-sS", url, "-H", "content-type: application/json", "-d", data]
            done = subprocess.run(command, capture_output=True, check=True)
            found.append(texts(json.loads(done.stdout)))
        assert found[0] == found[1] != ""


def test_bench_serving_chooses(
    server: Server, served: str, model_path: Path, tmp_path: Path
) -> None:
    """By its flag --model, each of two samplers."""
    prompts = tmp_path / "prompts.jsonl"
    turns = [{"content": MESSAGES[0]["content"]}, {"content": "Once upon a time."}]
    prompts.write_text(json.dumps({"conversations": turns}) + "\n")
    flags = ["--backend", "sglang-oai-chat", "--base-url", server.url, "--tokenizer", model_path]
    flags += ["--dataset-name", "custom", "--dataset-path", prompts, "--num-prompts", "1"]
    flags += ["--sharegpt-output-len", "24", "--warmup-requests", "0", "--output-details"]
    found: dict[str, list[str]] = {}
    for label, custom in (("regular", REGULAR), ("led", {"sampler": "led"})):
        for model, own in ((f"{served}:{label}", {}), (served, {"custom_params": custom})):
            out, log = (tmp_path / f"{label}-{len(own)}.{end}" for end in ("jsonl", "log"))
            more = ["--model", model, "--extra-request-body", json.dumps(own), "--output-file", out]
            arguments = [str(flag) for flag in (*flags, *more)]
            run = Forked(run_module, "sglang.benchmark.serving", arguments, log, dict(os.environ))
            assert run.wait(120) == 0, log.read_text()[-2000:]
            (text,) = json.loads(out.read_text().splitlines()[-1])["generated_texts"]
            found.setdefault(label, []).append(text)
    for by_name, by_params in found.values():
        assert by_name == by_params != ""
    assert found["regular"] != found["led"]


def test_grpc_clients_choose_too(served: str, server: Server, grpc_port: int) -> None:
    for label, custom, sampler in CHOICES:
        by_name = call(grpc_port, BODY | {"model": f"{served}:{label}"})["choices"][0]
        by_params = call(grpc_port, BODY | {"custom_params": custom})["choices"][0]
        assert by_name["response_token_ids"] == by_params["response_token_ids"]
        assert by_name["meta_info"]["sampler"]["name"] == sampler
    for model, word in ((f"{served}:nosuch", "does not exist"), (f"{served}:dola", "--enable")):
        with pytest.raises(grpc.RpcError, match=word):
            call(grpc_port, BODY | {"model": model})


@pytest.mark.parametrize("path", BODIES)
def test_names_that_are_not_served(server: Server, served: str, path: str) -> None:
    """404 as for an unknown model, in the form of the endpoint's errors; disagreement is 400."""
    for label, words in {
        "nosuch": (f"{served}:nosuch", f"answers to {served}, {served}:led, {served}:regular"),
        "dola": (f"{served}:dola", "--enable-samplers dola"),
        "led:regular": (f"{served}:led:regular",),
        "Regular": (f"{served}:Regular",),
    }.items():
        for stream in (False, True):
            body = BODIES[path]({}) | {"model": f"{served}:{label}", "stream": stream}
            response = server.post(path, body)
            assert response.status_code == 404, response.text
            assert SAMPLER_HEADER not in response.headers
            message = json.dumps(response.json())
            for word in ("does not exist", *words):
                assert word in message, message
    for label, custom, word in (
        ("regular", {"sampler": "led"}, "leave one of them out"),
        ("regular", LED, "custom_params.led does not apply"),
        ("led", REGULAR, "custom_params.sampler is 'regular'"),
        ("led-always-explore", {"led": {"gate": "never"}}, "custom_params.led.gate is 'never'"),
    ):
        body = BODIES[path]({"custom_params": custom}) | {"model": f"{served}:{label}"}
        assert_refused(server.post(path, body), word)


def test_the_probe_finds_this_server_ready(server: Server, capsys: Any) -> None:
    flags = ["--kernels", "cpu", "--sampler", "led"]
    assert main(["doctor", "--url", server.url, *flags]) == 0
    assert "4 of 4 tokens explored" in capsys.readouterr().out
    assert main(["doctor", "--url", server.url, "--graphs", "--sampler", "regular"]) == 1
    found = capsys.readouterr().out
    assert found.count("FAIL") == 1
    assert "decode batches of 1 to 16" in found


def test_ollama_lists_the_names(server: Server, served: str) -> None:
    listed = [model["name"] for model in server.get("/api/tags").json()["models"]]
    assert listed[:3] == [served, f"{served}:led", f"{served}:regular"]
    body = BODIES["/api/chat"]({}) | {"model": f"{served}:regular:latest"}
    assert server.post("/api/chat", body).headers[SAMPLER_HEADER] == "regular"


def test_transcriptions_name_the_default(server: Server) -> None:
    """They decode with it: a name that asks for another is refused."""
    form = {"model": "whisper:regular"}
    files = {"file": ("a.wav", b"RIFF")}
    url = server.url + "/v1/audio/transcriptions"
    response = requests.post(url, data=form, files=files, timeout=60)
    assert_refused(response, "decodes with the server's default sampler")
