"""Each way to capture layers, from SGLang's graph runners: the answers of an eager server.

Decode batches of 1, 3, 5 and 17 stand in buckets of 1, 4, 8 and 32; prompts of 1, 5, 300 and, in
chunks, 1,000 tokens share batches and run in breakable prefill graphs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from families.dense import DENSE
from families.tiny_models import write
from harness import Body, Server

from graphs.control import EAGER, GRAPHS
from graphs.faults import FAULTS
from graphs.served import GraphServer, assert_same, graph_flags, prompt_sizes, serve_graphs
from led_sglang.patches.families import CAPTURES

KINDS = {
    "dflash": "qwen3",
    "eagle3": "qwen2",
    "boundary": "mimo",
    "layer_input": "gemma2",
    "snapshot": "nemotron_nas",
}
METHODS = "led,dola,soft-thinking,soft-thinking-gumbel,soft-thinking-dirichlet"
CHUNK = 384
FLAGS = (
    *("--dtype", "float32", "--led-think-only", "false", "--trust-remote-code"),
    *("--max-running-requests", "32", "--max-total-tokens", "16384"),
    *("--chunked-prefill-size", str(CHUNK)),
    *("--dola-layers", "all", "--enable-samplers", METHODS),
    *graph_flags(decode=(1, 4, 8, 32), prefill=prompt_sizes(CHUNK)),
)
LENGTHS = (1, 5, 300, 1000, 40, 13)
SEEN = {"trace": True, "behaviour_logprobs": True}
LED: list[dict[str, Any]] = [
    {"gate": "always", "depth": 4, **SEEN},
    {"gate": "confidence", "final_norm": True, **SEEN},
    {"gate": "entropy", "gate_entropy": 1.5, "depth": 2, "candidates": 20, **SEEN},
    {"gate": "rate", "gate_rate": 0.5, "layers": "release", **SEEN},
]
# A mixture carries rounding on from step to step, and it grows: cooler and shorter.
STEADY = {"temperature": 0.15, "top_k": 20, "max_new_tokens": 8}
MIXED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"sampler": "dola", "dola": {"layers": [1, 2]}}, {}),
    ({"sampler": "soft-thinking"}, STEADY),
    ({"sampler": "led", "led": LED[0]}, {}),
    ({"sampler": "soft-thinking-gumbel"}, STEADY),
    ({"sampler": "dola", "dola": {"layers": "high"}}, {}),
    ({"sampler": "soft-thinking-dirichlet"}, STEADY),
    # The engine keeps no seeds for these.
    ({"sampler": "regular"}, {"temperature": 0}),
]


def batches(cases: list[tuple[dict[str, Any], dict[str, Any]]], sizes: list[int]) -> list[Any]:
    """Seeded requests of these cases in turn, in batches of these sizes."""
    draw, made, count = random.Random(3), [], 0
    for size in sizes:
        batch: list[Body] = []
        for _ in range(size):
            custom, sampling = cases[count % len(cases)]
            # Both ends of a batch vary: rows leave it one by one.
            common = {"temperature": 0.8, "max_new_tokens": 6 + 5 * (count % 3), "ignore_eos": True}
            prompt = [draw.randrange(3, 256) for _ in range(LENGTHS[count % len(LENGTHS)])]
            batch.append((prompt, custom, common | sampling | {"sampling_seed": count}))
            count += 1
        made.append(batch)
    return made


LED_BATCHES = batches([({"led": led}, {}) for led in LED], [1, 1, 1, 1, 3, 5, 17, 17])
MIXED_BATCHES = batches(MIXED, [1, 3, 5, 17])


def answers(server: Server, asked: list[list[Body]]) -> list[dict[str, Any]]:
    return [a for batch in asked for a in server.generate_batch(batch, return_logprob=True)]


def logprobs(answers: list[dict[str, Any]]) -> list[float]:
    """What the engine and the behaviour distribution gave each token."""
    numbers: list[float] = []
    for meta in (answer["meta_info"] for answer in answers):
        numbers += (entry[0] for entry in meta["output_token_logprobs"])
        numbers += meta["led_behaviour_logprobs"]
    return numbers


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GraphServer]:
    folder = tmp_path_factory.mktemp(request.param)
    family = DENSE[KINDS[request.param]]
    config = {**family.config, "max_position_embeddings": 2048}
    # A layer that does nothing ties with the one below it, and SGLang captures no prefill graphs
    # where some do not attend: of Nemotron's layers, one has no MLP.
    absent = tuple(part for part in family.zero if part == "layers.2.mlp.down_proj")
    _, served = write(replace(family, config=config, zero=absent), folder)
    passed = folder / "graphs"
    passed.mkdir()
    with serve_graphs(served, passed, *FLAGS) as running:
        running.kind = request.param  # type: ignore[attr-defined]
        yield running


def test_every_kind_is_served() -> None:
    served = set(KINDS) | {"whole_input"}  # layer_input's hooks, in graphs in families/ (cohere2)
    assert served == {capture.method for capture in CAPTURES.values()} - {"refused"}


def test_led_requests(server: GraphServer) -> None:
    eager, graphs = server.both(lambda served: answers(served, LED_BATCHES))
    assert len(eager) >= 40
    assert_same(graphs, eager)
    pairs = zip(logprobs(graphs), logprobs(eager), strict=True)
    print(f"largest difference of a log-probability: {max(abs(a - b) for a, b in pairs):.1e}")
    entries = [entry for answer in eager for entry in answer["meta_info"]["led_trace"]]
    assert sum(bool(entry.get("explored")) for entry in entries) > len(entries) / 10
    assert all(answer["meta_info"]["led_behaviour_logprobs"] for answer in eager)
    server.check_replayed("DECODE", "EXTEND")
    assert {1, 3, 5, 17} <= {line["requests"] for line in server.forwards("DECODE")}
    prefill = server.forwards("EXTEND")
    assert {1, 5, 300, CHUNK} <= {line["tokens"] for line in prefill}
    assert max(line["requests"] for line in prefill) > 2


def test_all_methods_in_a_batch(server: GraphServer) -> None:
    eager, graphs = server.both(lambda served: answers(served, MIXED_BATCHES))
    assert_same(graphs, eager)
    for reported, cases in (("led", 1), ("soft_thinking", 3)):
        count = sum(reported in answer["meta_info"] for answer in eager)
        assert count >= cases * (len(eager) // len(MIXED))
    server.check_replayed("DECODE", "EXTEND")


def test_faults_are_found(server: GraphServer) -> None:
    """What the comparison would say of them; after that the graphs are right again."""
    faults = ["rows of the padding"]
    if server.kind == "boundary":  # type: ignore[attr-defined]
        faults += ["streams taken at capture", "shared buffer not copied"]
    asked = LED_BATCHES[4:6]
    server.use(EAGER)
    eager = answers(server.served, asked)
    for fault in faults:
        assert fault in FAULTS
        server.use(fault)
        wrong = answers(server.served, asked)
        unlike = sum(w["output_ids"] != e["output_ids"] for w, e in zip(wrong, eager, strict=True))
        print(f"{fault}: {unlike} of {len(eager)} answers are wrong")
        assert unlike > 0, fault
        assert all(line["graph"] for line in server.forwards("DECODE", fault))
    server.use(GRAPHS)
    assert_same(answers(server.served, asked), eager)
