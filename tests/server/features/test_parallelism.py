"""Experts and attention spread over two ranks: the same tokens as transformers on one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import parallel_plugin
import pytest
from families.proof import prompts as eight_prompts
from families.sparse import SPARSE
from families.tiny_models import write
from graphs.control import EAGER, GRAPHS
from graphs.served import GraphServer, graph_flags, prompt_sizes, serve_graphs
from harness import Server, serve
from oracle import Oracle

LED: dict[str, Any] = {"gate": "always", "depth": 4, "candidates": 8}
GREEDY = {"temperature": 0, "max_new_tokens": 32, "ignore_eos": True}
FLAGS = (
    *("--dtype", "float32", "--led-think-only", "false", "--tp", "2"),
    *("--max-running-requests", "16", "--max-total-tokens", "4096"),
    *graph_flags(decode=(1, 6, 8), prefill=prompt_sizes(254)),
)
ATTENTION_DP = ("--dp", "2", "--enable-dp-attention", "--enable-dp-lm-head")
DOLA_PROMPTS = eight_prompts()[:4]
SERVERS = {
    "experts": ("--ep-size", "2"),
    "attention": ATTENTION_DP,
    "both": (*ATTENTION_DP, "--ep-size", "2"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(SPARSE["qwen3_moe"], tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def oracle(model: Path) -> Oracle:
    return Oracle(model)


@pytest.fixture(scope="module")
def dola_on_one_rank(model: Path) -> list[list[int]]:
    """Tokens of a server that test_dola_on_server.py's oracle knows to be right."""
    flags = ("--dtype", "float32", "--enable-samplers", "led,dola", "--led-think-only", "false")
    with serve(model, *flags, "--max-total-tokens", "4096") as server:
        return [ask(server, ids, None, {"sampler": "dola"})["output_ids"] for ids in DOLA_PROMPTS]


@pytest.fixture(scope="module", params=SERVERS)
def graph_server(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GraphServer]:
    flags = (*FLAGS, "--enable-samplers", "led,dola", *SERVERS[request.param])
    with serve_graphs(
        model,
        tmp_path_factory.mktemp("graphs"),
        *flags,
        plugins=(Path(parallel_plugin.__file__),),
        env={"SGLANG_CPU_OMP_THREADS_BIND": "0|1"},
    ) as running:
        running.parallel = request.param  # type: ignore[attr-defined]
        yield running


@pytest.fixture(params=[EAGER, GRAPHS])
def server(request: pytest.FixtureRequest, graph_server: GraphServer) -> Server:
    """One that answers eagerly, then out of its graphs."""
    graph_server.use(request.param)
    graph_server.served.parallel = graph_server.parallel  # type: ignore[attr-defined]
    return graph_server.served


def check(oracle: Oracle, prompt: list[int], answer: dict[str, Any]) -> None:
    """Every token is the reference's, and plain decoding's would not have passed."""
    tokens = answer["output_ids"]
    assert len(tokens) == GREEDY["max_new_tokens"]
    verdict = oracle.check_greedy(prompt, tokens, [True] * len(tokens), **LED)
    assert not verdict.differences, verdict.differences[:4]
    assert verdict.near_ties <= 1
    plain = oracle.check_greedy(prompt, tokens, [True] * len(tokens), **LED | {"gate": "never"})
    assert plain.differences
    assert answer["meta_info"]["led"]["explored_tokens"] == len(tokens)


def ask(server: Server, prompt: list[int], rank: int | None, custom: Any) -> dict[str, Any]:
    body = {"input_ids": prompt, "sampling_params": {**GREEDY, "custom_params": custom}}
    if rank is not None:
        body["routed_dp_rank"] = rank
    response = server.post("/generate", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_is_parallel_as_asked(server: Server) -> None:
    info = server.get("/server_info").json()
    name = server.parallel  # type: ignore[attr-defined]
    assert info["ep_size"] == (1 if name == "attention" else 2)
    assert info["enable_dp_attention"] == (name != "experts")
    assert len(info["internal_states"]) == (1 if name == "experts" else 2)
    for state in info["internal_states"]:
        found = state["led"]["truncation_check"]
        assert found["skipped"] is None
        assert all(own <= 1e-4 and other > 0.1 for own, other in found["layers"].values())


def test_eight_at_once(server: Server, oracle: Oracle) -> None:
    asked = eight_prompts()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda ids: ask(server, ids, None, {"led": LED}), asked))
    for ids, answer in zip(asked, answers, strict=True):
        check(oracle, ids, answer)


@pytest.mark.parametrize("number", [0, 1])
def test_one_alone(server: Server, oracle: Oracle, number: int) -> None:
    """With attention data parallelism the other rank is idle; expert ranks share a request."""
    rank = None if server.parallel == "experts" else number  # type: ignore[attr-defined]
    ids = eight_prompts()[number]
    check(oracle, ids, ask(server, ids, rank, {"led": LED}))


def test_dola(server: Server, dola_on_one_rank: list[list[int]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda ids: ask(server, ids, None, {"sampler": "dola"}), DOLA_PROMPTS)
        )
    assert [answer["output_ids"] for answer in answers] == dola_on_one_rank
    plain = [ask(server, ids, None, {"sampler": "regular"})["output_ids"] for ids in DOLA_PROMPTS]
    assert plain != dola_on_one_rank


def test_graphs_ran(graph_server: GraphServer) -> None:
    """Runs last. With attention data parallelism both ranks must do the same, or all is eager."""
    apart = graph_server.parallel != "experts"  # type: ignore[attr-defined]
    graph_server.check_replayed("DECODE", share=0.5 if apart else 1.0)
    graph_server.check_replayed("EXTEND", share=0.1 if apart else 1.0)
