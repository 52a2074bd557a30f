"""Under speculative decoding a seeded request gets the tokens that it gets without.

NGRAM drafts for both models; a draft model (STANDALONE) for the trained one, which is the
checkpoint that it was trained from.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, pairwise
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
from speculating import (
    COMMON,
    TOOL_START,
    assert_acceptance_shown,
    assert_same_account,
    assert_same_answers,
    in_batches,
    seeded_bodies,
)

from led_sglang.kernels import LedReference
from led_sglang.models.bundled import bundled_model

pytestmark = pytest.mark.served_models("tied", "trained")

DRAWS, AT_FORK = 20_000, 1.0  # and their temperature
REGULAR: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.7, "frequency_penalty": 0.5},
    {"temperature": 0.9, "logit_bias": {"65": 3.0}},
]
PENALTIES: list[dict[str, Any]] = [
    {"frequency_penalty": 1.5},
    {"presence_penalty": 2.0},
    {"repetition_penalty": 1.8},
]
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
    return seeded_bodies(prompts, think_ids, trained)


@pytest.fixture(scope="module")
def expected(model_path: Path, bodies: list[Body]) -> list[dict[str, Any]]:
    with serve(model_path, *FLAGS) as server:
        return in_batches(server, bodies, sizes=(25,))  # other batches than where drafts are made


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
    assert_projected_where_explored(drafting.server, prompts)


@pytest.mark.served_models("trained")
def test_they_are_not_projected_where_a_model_drafts(
    with_draft_model: Drafting, prompts: list[Sequence[int]]
) -> None:
    assert_projected_where_explored(with_draft_model.server, prompts)


def assert_projected_where_explored(server: Server, prompts: list[Sequence[int]]) -> None:
    """Exactly `depth - 1` rows for each node that explores, accepted or not; and for LED as it is
    by default about what docs/speculation.md computes from the tokens that were committed."""
    info = server.get("/server_info").json()
    width = info["speculative_num_draft_tokens"]

    def asked(led: dict[str, Any], count: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        before = totals(server)
        sampling = COMMON | {"temperature": 0.6}
        answers = server.generate_batch(
            [
                (p, {"led": led}, sampling | {"sampling_seed": i})
                for i, p in enumerate(prompts[:count])
            ]
        )
        after = totals(server)
        grown = {key: after[key] - before[key] for key in ("projected_rows", "steps")}
        return grown, [answer["meta_info"] for answer in answers]

    grown, (meta,) = asked({"gate": "never", "depth": 5}, 1)
    assert grown["projected_rows"] == 0
    assert meta["led"]["think_tokens"] > 0
    grown, (meta,) = asked({"gate": "always", "depth": 5, "think_only": False}, 1)
    nodes = 1 + (grown["steps"] - 1) * width  # the prefill draws one token
    assert grown["projected_rows"] == (5 - 1) * nodes
    assert grown["steps"] - 1 >= meta["spec_verify_ct"] > 0

    grown, seen = asked({}, 20)
    tokens = sum(meta["completion_tokens"] for meta in seen)
    accepted = tokens / sum(meta["spec_verify_ct"] for meta in seen)
    rate = sum(meta["led"]["explored_tokens"] for meta in seen) / tokens
    depth = info["internal_states"][0]["led"]["settings"]["depth"]
    predicted = rate * (depth - 1) * width / accepted
    measured = grown["projected_rows"] / tokens
    print(
        f"depth {depth}, {width} nodes, explore rate {rate:.3f}, {accepted:.2f} tokens a "
        f"verification: {measured:.2f} latent rows a token, {predicted:.2f} predicted"
    )
    assert 0.5 < measured / predicted < 2


def totals(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/server_info").json()["internal_states"][0]["led"]["totals"]
    return found


def test_under_a_penalty_led_draws_what_regular_draws(
    drafting: Drafting, prompts: list[Sequence[int]]
) -> None:
    assert all(assert_penalised_alike(drafting.server, prompts))


@pytest.mark.served_models("trained")
def test_under_a_penalty_it_does_where_a_model_drafts(
    with_draft_model: Drafting, prompts: list[Sequence[int]]
) -> None:
    # Longer drafts, of which no token counts before the next one: a mild penalty changes nothing.
    assert any(assert_penalised_alike(with_draft_model.server, prompts))


def assert_penalised_alike(server: Server, prompts: list[Sequence[int]]) -> list[bool]:
    """SGLang's relaxed penalties depend on where the drafts of an answer began and ended, so that
    both have to see the same: the same batches, twice, behind an empty store of drafts.

    Returns:
        Whether each of the penalties has changed an answer.
    """

    def answers(custom: dict[str, Any], penalised: bool = True) -> list[dict[str, Any]]:
        assert server.post("/flush_cache?timeout=10", {}).status_code == 200
        greedy = [COMMON | {"temperature": 0} | (p if penalised else {}) for p in PENALTIES]
        batch: list[Body] = [
            (prompt, custom, sampling)
            for prompt, sampling in zip(prompts[:6], cycle(greedy), strict=False)
        ]
        return [answer for _ in range(2) for answer in server.generate_batch(batch)]

    def tokens(found: list[dict[str, Any]]) -> list[list[int]]:
        return [answer["output_ids"] for answer in found]

    theirs = answers({"sampler": "regular"})
    ours = answers({"led": {"gate": "never"}})
    assert tokens(ours) == tokens(theirs)
    assert all(answer["meta_info"]["led"]["think_tokens"] > 0 for answer in ours)
    assert sum(answer["meta_info"]["spec_num_correct_drafts"] for answer in ours) > 0
    without = answers({"led": {"gate": "never"}}, penalised=False)
    changed = [a != b for a, b in zip(tokens(ours), tokens(without), strict=True)]
    return [any(changed[i :: len(PENALTIES)]) for i in range(len(PENALTIES))]


def test_streams_and_tool_calls_in_a_thought_are_those_without_drafts(
    drafting: Drafting, bodies: list[Body], expected: list[dict[str, Any]], tokenizer: Any
) -> None:
    assert_streamed_alike(drafting.server, bodies, expected, tokenizer)


@pytest.mark.served_models("trained")
def test_they_are_where_a_model_drafts(
    with_draft_model: Drafting,
    bodies: list[Body],
    expected: list[dict[str, Any]],
    tokenizer: Any,
) -> None:
    assert_streamed_alike(with_draft_model.server, bodies, expected, tokenizer)


def assert_streamed_alike(
    server: Server, bodies: list[Body], expected: list[dict[str, Any]], tokenizer: Any
) -> None:
    """Token by token what a whole answer without drafts has, in fewer pieces than tokens."""
    call = tokenizer.encode(TOOL_START, add_special_tokens=False)
    pieces = tokens = calls = 0
    for i in (0, 5, 6, 12, 32):
        prompt, custom, sampling = bodies[i]
        body = {
            "input_ids": list(prompt),
            "sampling_params": {"custom_params": custom, **sampling},
            "return_logprob": True,
            "stream": True,
        }
        with server.post("/generate", body, stream=True) as reply:
            lines = [line for line in reply.iter_lines() if line.startswith(b"data: {")]
        events = [json.loads(line.removeprefix(b"data: ")) for line in lines]
        for earlier, later in pairwise(event["output_ids"] for event in events):
            assert later[: len(earlier)] == earlier
        last = events[-1]
        for key in ("output_ids", "text"):
            assert last[key] == expected[i][key]
        assert_same_account(last["meta_info"], expected[i]["meta_info"])
        assert_acceptance_shown(last["meta_info"])
        pieces, tokens = pieces + len(events), tokens + len(last["output_ids"])
        if TOOL_START in sampling.get("regex", ""):
            ids, phases = last["output_ids"], [e["phase"] for e in last["meta_info"]["led_trace"]]
            thought = [ids[at : at + len(call)] for at in range(len(ids))].index(call) + len(call)
            assert phases == ["think"] * thought + ["response"] * (len(ids) - thought)
            calls += thought < len(ids)
    assert calls == 2
    assert pieces < tokens


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


@pytest.mark.served_models("tied")
def test_regular_requests_keep_the_engines_verification(
    model_path: Path, prompts: list[Sequence[int]], drafting: Drafting
) -> None:
    assert_regular_unchanged(model_path, prompts, drafting, ngram(False))


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
