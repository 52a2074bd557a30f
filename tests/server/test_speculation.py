"""Under speculative decoding a seeded request gets the tokens that it gets without.

NGRAM drafts for both models; a draft model (STANDALONE) for the trained one, which is the
checkpoint that it was trained from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import (
    PLAIN_COMMAND,
    PLAIN_ENVIRONMENT,
    Body,
    Server,
    chat_ids,
    held_out_problems,
    serve,
)
from oracle import Oracle
from scipy.stats import chisquare

from led_sglang.kernels import LedReference
from led_sglang.models.bundled import bundled_model

pytestmark = pytest.mark.served_models("tied", "trained")

REQUESTS, PER_BATCH = 200, 25
DRAWS, AT_FORK = 20_000, 1.0  # and their temperature
CONTEXT = {"tied": 4096, "trained": 2048}
LED: list[dict[str, Any]] = [
    {"trace": True},
    {"gate": "always"},
    {"candidates": 20, "depth": 4},
    {"preset": "release"},
    {"gate": "rate", "gate_rate": 0.5, "trace": True},
    {"gate": "entropy", "gate_entropy": 0.3, "final_norm": True},
    {"gate": "never", "behaviour_logprobs": True, "trace": True},
    {"think_only": False, "depth": 3},
]
FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.95, "top_k": 20},
    {"top_p": 0.9, "min_p": 0.05},
    {},
]
REGULAR: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.7, "frequency_penalty": 0.5},
    {"temperature": 0.9, "logit_bias": {"65": 3.0}},
]
COMMON = {"max_new_tokens": 32, "ignore_eos": True}
# Those with seeds, and `regular` ones in the same batches.
FLAGS = ("--dtype", "float32", "--enable-samplers", "dola", "--max-running-requests", "256")


@dataclass(frozen=True)
class Drafting:
    """A server that drafts, and what its very first requests, `regular` ones, were answered."""

    server: Server
    regular: list[list[int]]


def ngram(trained: bool) -> tuple[str, ...]:
    drafted = "3" if trained else "8"
    algorithm = ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", drafted)
    # SGLang's own size takes 2 GB of memory, and several servers run at once.
    return (*algorithm, "--speculative-ngram-capacity", "1000000")


def draft_model() -> tuple[str, ...]:
    path = str(bundled_model("tiny-reasoner-sft"))
    return ("--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", path)


def regular_answers(server: Server, prompts: list[Sequence[int]], custom: Any) -> list[list[int]]:
    """One by one, twice, so that the second ones are drafted; then a batch without noise."""
    alone = [
        server.generate(prompt, custom, **COMMON, **sampling)["output_ids"]
        for prompt, sampling in [*zip(prompts, REGULAR, strict=False)] * 2
    ]
    greedy: list[Body] = [(prompt, custom, COMMON | REGULAR[0]) for prompt in prompts[:8]]
    return alone + [answer["output_ids"] for answer in server.generate_batch(greedy)]


@pytest.fixture(scope="module")
def drafting(model_path: Path, prompts: list[Sequence[int]], trained: bool) -> Iterator[Drafting]:
    with serve(model_path, *FLAGS, *ngram(trained)) as server:
        assert "Overlap schedule is not implemented" not in server.log.read_text()
        yield Drafting(server, regular_answers(server, prompts, {"sampler": "regular"}))


@pytest.fixture(scope="module")
def with_draft_model(model_path: Path, prompts: list[Sequence[int]]) -> Iterator[Drafting]:
    with serve(model_path, *FLAGS, *draft_model()) as server:
        log = server.log.read_text()
        assert "Overlap schedule is not implemented" not in log
        assert "not proven" not in log
        yield Drafting(server, regular_answers(server, prompts, {"sampler": "regular"}))


@pytest.fixture(scope="module")
def bodies(prompts: list[Sequence[int]], think_ids: tuple[int, int], trained: bool) -> list[Body]:
    """All gates, seeds and filters; half of them change phase on the way, some have a grammar."""
    start, end = map(str, think_ids)
    made: list[Body] = []
    for i in range(REQUESTS):
        custom: dict[str, Any] = {"led": LED[i % len(LED)]}
        if i % 25 == 24:
            custom = {"sampler": "dola", "dola": {"layers": "high"}}
        sampling = COMMON | FILTERS[i % 3] | {"temperature": [0.6, 0.8, 1.0, 0.0][i % 4]}
        sampling["sampling_seed"] = 1000 + i
        if i % 2:
            sampling["logit_bias"] = {end: 3.5, start: 2.5}
        if i % 20 == 7:
            sampling["regex"] = "(1 |2 |3 ){40}"
        if i % 20 in (6, 15):  # the one that comes first counts, whatever stands first here
            sampling |= {"ignore_eos": i % 40 < 20, "stop": ["3 ", "7 ", "z", "in"]}
        made.append((prompts[i % len(prompts)], custom, sampling))
    # The last drafts reach beyond the context.
    room = CONTEXT["trained" if trained else "tied"] - 8
    long = [*prompts[0]] * (room // len(prompts[0]) + 1)
    last = {"temperature": 0.6, "max_new_tokens": 6, "sampling_seed": 77, "ignore_eos": True}
    return [*made, (long[:room], {"led": {"gate": "always"}}, last)]


def in_batches(server: Server, bodies: list[Body]) -> list[dict[str, Any]]:
    answers = []
    for first in range(0, len(bodies), PER_BATCH):
        answers += server.generate_batch(bodies[first : first + PER_BATCH], return_logprob=True)
    return answers


@pytest.fixture(scope="module")
def expected(model_path: Path, bodies: list[Body]) -> list[dict[str, Any]]:
    with serve(model_path, *FLAGS) as server:
        return in_batches(server, bodies)


def test_seeded_requests_get_what_they_get_without_drafts(
    drafting: Drafting, bodies: list[Body], expected: list[dict[str, Any]]
) -> None:
    """Tokens, phases, statistics, traces and log-probabilities; all of them twice, the second time
    with drafts of the first."""
    assert_same_answers(drafting.server, bodies, expected)
    assert assert_same_answers(drafting.server, bodies, expected) > 1.25
    phases = {e["phase"] for a in expected for e in a["meta_info"].get("led_trace", ())}
    assert {"think", "response"} <= phases


@pytest.mark.served_models("trained")
def test_a_draft_model_changes_when_tokens_come_and_not_which(
    with_draft_model: Drafting, bodies: list[Body], expected: list[dict[str, Any]]
) -> None:
    assert assert_same_answers(with_draft_model.server, bodies, expected) > 1.25


def assert_same_answers(
    server: Server, bodies: list[Body], expected: list[dict[str, Any]]
) -> float:
    """Compare answers with those of a server that does not draft; tokens a verification."""
    answers = in_batches(server, bodies)
    for index, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        assert ours["output_ids"] == theirs["output_ids"], f"{index}: {bodies[index]}"
        assert_same_account(ours["meta_info"], theirs["meta_info"])
    seen = [answer["meta_info"] for answer in answers]
    tokens: int = sum(meta["completion_tokens"] for meta in seen)
    # An answer that its first token ends is never verified.
    verified: int = sum(meta.get("spec_verify_ct", 0) for meta in seen)
    print(f"{len(answers)} equal, {tokens / verified:.2f} tokens a verification")
    return tokens / verified


def assert_same_account(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    led, without = ours.get("led"), theirs.get("led")
    assert (led is None) == (without is None)
    if led is not None and without is not None:
        counts = ("think_tokens", "explored_tokens", "depth_histogram", "first_explored")
        assert [led[key] for key in counts] == [without[key] for key in counts]
        assert led["mean_p1"] == pytest.approx(without["mean_p1"], abs=1e-4)
    for key in ("led_trace", "led_behaviour_logprobs"):
        assert (key in ours) == (key in theirs)
    for one, other in zip(ours.get("led_trace", ()), theirs.get("led_trace", ()), strict=True):
        assert one.keys() == other.keys()
        for key in {"token_id", "phase", "explored", "depth", "candidate_ids"} & one.keys():
            assert one[key] == other[key]
        for key in {"p1", "behaviour_probs"} & one.keys():
            assert one[key] == pytest.approx(other[key], abs=1e-4)
    for one, other in zip(
        ours.get("led_behaviour_logprobs", ()),
        theirs.get("led_behaviour_logprobs", ()),
        strict=True,
    ):
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-3)
    logprobs = [[entry[0] for entry in m["output_token_logprobs"]] for m in (ours, theirs)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)


@pytest.mark.served_models("trained")
def test_unseeded_tokens_behind_a_drafted_one_follow_q(
    drafting: Drafting, model_path: Path, tokenizer: Any
) -> None:
    """20,000 of them, against a float64 reference that shares no code with the server.

    A thought begins with a room that the prefill makes; then one of two doors is as likely as the
    other. Where the one that was taken had been drafted, the third room is drawn at its node.
    """
    prompt, first, behind = a_fork(Oracle(model_path), tokenizer)
    sampling = {"temperature": AT_FORK, "max_new_tokens": 3, "n": 1_000}
    found = {door: Counter[int]() for door in behind}
    for _ in range(2 * DRAWS // 1_000):
        body = {"input_ids": prompt, "sampling_params": sampling}
        for answer in drafting.server.post("/generate", body).json():
            begin, second, third = answer["output_ids"]
            drafted = answer["meta_info"]["spec_verify_ct"] == 1
            if drafted and begin == first and second in behind:
                found[second][third] += 1
        if sum(map(Counter.total, found.values())) >= DRAWS:
            break
    assert sum(map(Counter.total, found.values())) >= DRAWS
    of_the_final_layer = []
    for door, reference in behind.items():
        rooms = found[door]
        p_value = fit(rooms, reference.candidate_ids, reference.behaviour_probs.tolist())
        alone = fit(rooms, reference.candidate_ids, reference.exploit_probs.tolist())
        print(f"behind {door}: {rooms.total()} draws, p = {p_value:.4f}; without LED {alone:.1e}")
        assert p_value > 0.001
        of_the_final_layer.append(alone)
    assert min(of_the_final_layer) < 1e-6  # where LED explores, its layers count


def a_fork(oracle: Oracle, tokenizer: Any) -> tuple[list[int], int, dict[int, LedReference]]:
    """A prompt, the token that its thought begins with, and LED's step behind either of two.

    Behind each of the two the other is as likely as not: if noise at a node had to do with noise at
    the one before it, it would show there.
    """

    def step(ids: Sequence[int]) -> LedReference:
        logits, streams = oracle.states(ids)
        return oracle.step(logits[-1], streams[-1], temperature=AT_FORK, depth=8, candidates=8)

    for problem in held_out_problems():
        prompt = chat_ids(tokenizer, problem)
        first = int(oracle.states(prompt)[0][-1].argmax())
        root = step([*prompt, first])
        chances = dict(zip(root.candidate_ids, root.behaviour_probs.tolist(), strict=True))
        doors = [token for token, chance in chances.items() if chance > 0.3]
        if len(doors) != 2:
            continue
        behind = {door: step([*prompt, first, door]) for door in doors}
        shifts, others = [], []
        for reference, other in zip(behind.values(), reversed(doors), strict=True):
            q = reference.behaviour_probs
            shifts.append(float((q - reference.exploit_probs).abs().max()))
            others.append(dict(zip(reference.candidate_ids, q.tolist(), strict=True)).get(other, 0))
        if max(shifts) > 0.04 and min(others) > 0.2 and max(others) < 0.8:
            return prompt, first, behind
    raise AssertionError("no problem has such a fork")


def fit(found: Counter[int], tokens: Sequence[int], probs: Sequence[float]) -> float:
    """P-value of chi-square; what is expected less than ten times counts with the likeliest."""
    assert set(found) <= set(tokens)
    cells = sorted(((found.total() * p, found[t]) for t, p in zip(tokens, probs, strict=True)))
    wanted, seen = map(list, zip(*cells, strict=True))
    rare = sum(expected < 10 for expected in wanted)
    wanted[-1] += sum(wanted[:rare])
    seen[-1] += sum(seen[:rare])
    return float(chisquare(seen[rare:], wanted[rare:]).pvalue)


def test_log_q_takes_its_place_among_the_log_probabilities(
    drafting: Drafting, prompts: list[Sequence[int]]
) -> None:
    """Every token's, whether it was drafted or drawn behind a draft."""
    custom = {"led": {"logprobs": "behaviour", "behaviour_logprobs": True}}
    sampling = COMMON | {"temperature": 0.8, "sampling_seed": 5}
    for _ in range(2):
        meta = drafting.server.generate(prompts[0], custom, return_logprob=True, **sampling)[
            "meta_info"
        ]
        reported = [entry[0] for entry in meta["output_token_logprobs"]]
        own = meta["led_behaviour_logprobs"]
        assert [r for r, q in zip(reported, own, strict=True) if q is not None] == pytest.approx(
            [q for q in own if q is not None], abs=1e-6
        )
        assert sum(q is not None for q in own) == meta["led"]["think_tokens"] > 4
    assert meta["spec_num_correct_drafts"] > 0


def test_nodes_that_do_not_explore_are_not_projected(
    drafting: Drafting, prompts: list[Sequence[int]]
) -> None:
    def projected(gate: str) -> int:
        before = totals(drafting.server)["projected_rows"]
        custom = {"led": {"gate": gate, "depth": 5}}
        sampling = COMMON | {"temperature": 0.8, "sampling_seed": 6}
        answer = drafting.server.generate(prompts[1], custom, **sampling)
        assert answer["meta_info"]["led"]["think_tokens"] > 0
        rows: int = totals(drafting.server)["projected_rows"] - before
        return rows

    assert projected("never") == 0
    assert projected("always") > 0


def totals(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/server_info").json()["internal_states"][0]["led"]["totals"]
    return found


def test_retractions_and_an_abort_in_the_middle_of_drafts_harm_nobody(
    drafting: Drafting, bodies: list[Body], expected: list[dict[str, Any]]
) -> None:
    assert_nobody_harmed(drafting.server, bodies, expected)


@pytest.mark.served_models("trained")
def test_they_harm_nobody_where_a_model_drafts(
    with_draft_model: Drafting, bodies: list[Body], expected: list[dict[str, Any]]
) -> None:
    assert_nobody_harmed(with_draft_model.server, bodies, expected)


def assert_nobody_harmed(
    server: Server, bodies: list[Body], expected: list[dict[str, Any]]
) -> None:
    some = [i for i in range(24) if "regex" not in bodies[i][2]]
    long = {
        "rid": "long",
        "input_ids": list(bodies[0][0]),
        "sampling_params": {"max_new_tokens": 1_500, "ignore_eos": True},
    }
    with ThreadPoolExecutor(2) as pool:
        aborted = pool.submit(server.post, "/generate", long)
        running = pool.submit(server.generate_batch, [bodies[i] for i in some])
        pause_s = 0.15
        while not running.done():
            time.sleep(pause_s)
            pause_s *= 1.3  # a slow machine has to come to an end between two retractions
            assert server.post("/pause_generation", {"mode": "retract"}).status_code == 200
            assert server.post("/continue_generation", {}).status_code == 200
            server.post("/abort_request", {"rid": "long"})
        answers = running.result()
        while not aborted.done():
            server.post("/abort_request", {"rid": "long"})
            time.sleep(0.1)
        ended = aborted.result().json()["meta_info"]["finish_reason"]
    assert ended["type"] == "abort"
    assert any(a["meta_info"]["num_retractions"] > 0 for a in answers)
    for index, answer in zip(some, answers, strict=True):
        assert answer["output_ids"] == expected[index]["output_ids"]
        ours, theirs = answer["meta_info"].get("led"), expected[index]["meta_info"].get("led")
        if ours is not None and theirs is not None:
            assert ours["think_tokens"] == theirs["think_tokens"]


def test_regular_requests_keep_the_engines_verification(
    model_path: Path, prompts: list[Sequence[int]], trained: bool, drafting: Drafting
) -> None:
    assert_regular_unchanged(model_path, prompts, drafting, ngram(trained))


@pytest.mark.served_models("trained")
def test_regular_requests_keep_it_where_a_model_drafts(
    model_path: Path, prompts: list[Sequence[int]], with_draft_model: Drafting
) -> None:
    assert_regular_unchanged(model_path, prompts, with_draft_model, draft_model())


def assert_regular_unchanged(
    model_path: Path, prompts: list[Sequence[int]], drafting: Drafting, flags: tuple[str, ...]
) -> None:
    """Bit for bit those of a plain server with the same speculation; beside LED's too, where the
    tokens do not depend on how many coins the engine has thrown."""
    plain = ("--dtype", "float32", *flags)
    with serve(model_path, *plain, command=PLAIN_COMMAND, env=PLAIN_ENVIRONMENT) as server:
        theirs = regular_answers(server, prompts, None)
        assert "led" not in server.get("/server_info").json()["internal_states"][0]
    assert drafting.regular == theirs
    mixed: list[Body] = []
    for prompt in prompts[:8]:
        mixed += [(prompt, {"sampler": "regular"}, COMMON | REGULAR[0])]
        mixed += [(prompt, {"led": {"gate": "always"}}, COMMON | {"temperature": 0.8})]
    answers = drafting.server.generate_batch(mixed)
    assert [answer["output_ids"] for answer in answers[0::2]] == theirs[-8:]
