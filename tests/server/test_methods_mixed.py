"""All methods in one batch: each row as it is alone, on any kind of server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from graphs.control import EAGER, GRAPHS
from graphs.faults import FAULTS
from graphs.served import GraphServer, assert_same, graph_flags, prompt_sizes, serve_graphs
from harness import Body, Server, recorded_tokens, serve

METHODS = "led,dola,soft-thinking,soft-thinking-gumbel,soft-thinking-dirichlet"
FLAGS = ("--dtype", "float32", "--enable-samplers", METHODS)
COMMON = {"max_new_tokens": 40, "ignore_eos": True}
SEEDED = COMMON | {"temperature": 0.7, "top_k": 20, "top_p": 0.95}
SOFT = {"entropy_threshold": 9.0, "length_threshold": 6, "trace": True}
# Mixtures carry rounding on from step to step, and it grows: cooler and shorter than the others.
STEADY = COMMON | {"temperature": 0.15, "top_k": 20, "max_new_tokens": 12}
# The engine keeps no seeds for `regular` rows without deterministic inference: those are greedy.
CASES: list[tuple[Any, dict[str, Any]]] = [
    ({"sampler": "regular"}, COMMON | {"temperature": 0}),
    ({"sampler": "led", "led": {"gate": "always"}}, SEEDED | {"sampling_seed": 1}),
    ({"sampler": "dola"}, SEEDED | {"sampling_seed": 2, "repetition_penalty": 1.2}),
    ({"sampler": "soft-thinking", "soft-thinking": SOFT}, STEADY | {"sampling_seed": 3}),
    ({"sampler": "soft-thinking-gumbel"}, STEADY | {"sampling_seed": 4}),
    ({"sampler": "soft-thinking-dirichlet"}, STEADY | {"sampling_seed": 5}),
    ({"sampler": "dola", "dola": {"layers": "high"}}, COMMON | {"temperature": 0}),
    ({"sampler": "led"}, COMMON | {"temperature": 0}),
    (
        {"sampler": "soft-thinking-gumbel", "soft-thinking-gumbel": SOFT},
        STEADY | {"sampling_seed": 6},
    ),
]


def bodies(prompts: list[Sequence[int]]) -> list[Body]:
    return [
        (prompt, custom, sampling)
        for prompt, (custom, sampling) in zip(prompts, CASES, strict=False)
    ]


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["output_ids"] for answer in answers]


@pytest.fixture(scope="module")
def expected(model_path: Path, prompts: list[Sequence[int]]) -> list[dict[str, Any]]:
    """Every case alone; then mixed, which must be the same."""
    with serve(model_path, *FLAGS) as server:
        alone = [server.generate_batch([body])[0] for body in bodies(prompts)]
        mixed = server.generate_batch(bodies(prompts))
        assert tokens(mixed) == tokens(alone) == recorded_tokens("mixed")
        assert installed(server)
    return mixed


def installed(server: Server) -> bool:
    reads: bool = server.get("/server_info").json()["internal_states"][0]["led"][
        "reads_soft_inputs"
    ]
    return reads


def test_mixed_equals_alone_and_every_method_differs(expected: list[dict[str, Any]]) -> None:
    stops = [a["meta_info"]["soft_thinking"]["cold_stops"] for a in (expected[3], expected[8])]
    assert all(stops), "the cold stop is part of the comparison"
    assert len({tuple(t) for t in tokens(expected)}) == len(CASES)
    for answer, (custom, _) in zip(expected, CASES, strict=True):
        meta = answer["meta_info"]
        assert ("soft_thinking" in meta) == custom["sampler"].startswith("soft")
        assert ("led" in meta) == (custom["sampler"] == "led")


def check_same(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert tokens(answers) == tokens(expected)
    for ours, theirs in zip(answers, expected, strict=True):
        pairs = zip(
            ours["meta_info"].get("soft_thinking_trace", ()),
            theirs["meta_info"].get("soft_thinking_trace", ()),
            strict=True,
        )
        # Rounding grows with every mixture: the weights are comparable in the first steps only.
        for one, other in islice(pairs, 2):
            assert one.get("ids") == other.get("ids")
            assert one.get("weights") == pytest.approx(other.get("weights"), rel=0.02, abs=1e-3)


def test_same_without_overlap(
    model_path: Path, prompts: list[Sequence[int]], expected: list[dict[str, Any]]
) -> None:
    with serve(model_path, *FLAGS, "--disable-overlap-schedule") as server:
        check_same(server.generate_batch(bodies(prompts)), expected)


@pytest.fixture(scope="module")
def two_ranks(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphServer]:
    graphs = graph_flags(decode=(1, 4, 12, 32), prefill=prompt_sizes(512))
    chunks = ("--chunked-prefill-size", "512")
    folder = tmp_path_factory.mktemp("graphs")
    with serve_graphs(model_path, folder, *FLAGS, "--tp", "2", *chunks, *graphs) as running:
        yield running


@pytest.mark.parametrize("mode", [EAGER, GRAPHS])
def test_same_on_two_ranks(
    two_ranks: GraphServer,
    prompts: list[Sequence[int]],
    expected: list[dict[str, Any]],
    mode: str,
) -> None:
    two_ranks.use(mode)
    check_same(two_ranks.served.generate_batch(bodies(prompts)), expected)


def test_graphs_of_two_ranks_give_what_is_eager(
    two_ranks: GraphServer, prompts: list[Sequence[int]]
) -> None:
    """Batches of 1, 3, 5 and 17, of all methods, and of DoLa's and the soft ones' alone."""
    every = [
        (ids, custom, sampling | {"max_new_tokens": 12})
        for ids, custom, sampling in bodies(prompts) * 3
    ]
    soft = [body for body in every if body[1]["sampler"].startswith("soft")]
    dola = [body for body in every if body[1]["sampler"] == "dola"]

    def ask(server: Server) -> list[dict[str, Any]]:
        batches = (every[:1], dola[:3], soft[:5], every[3:20])
        return [answer for batch in batches for answer in server.generate_batch(batch)]

    eager, graphs = two_ranks.both(ask)
    assert_same(graphs, eager)
    two_ranks.check_replayed("DECODE", "EXTEND")
    assert {1, 3, 5, 17} <= {line["requests"] for line in two_ranks.forwards("DECODE")}


def test_soft_tables_made_anew_are_found(
    two_ranks: GraphServer, prompts: list[Sequence[int]], expected: list[dict[str, Any]]
) -> None:
    """Runs last of this server."""
    fault = "soft tables replaced"
    assert fault in FAULTS
    two_ranks.use(fault)
    wrong = tokens(two_ranks.served.generate_batch(bodies(prompts)))
    right = tokens(expected)
    for (custom, _), ours, theirs in zip(CASES, wrong, right, strict=True):
        if not custom["sampler"].startswith("soft"):
            assert ours == theirs
    assert wrong != right


def test_server_without_soft_methods_has_no_soft_inputs(
    model_path: Path, prompts: list[Sequence[int]]
) -> None:
    with serve(model_path, "--enable-samplers", "dola") as server:
        assert not installed(server)
        body = {
            "input_ids": list(prompts[0]),
            "sampling_params": {"custom_params": {"sampler": "soft-thinking"}},
        }
        response = server.post("/generate", body)
        assert response.status_code == 400
        assert "--enable-samplers soft-thinking" in response.text
