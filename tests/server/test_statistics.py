"""Statistics, traces and log-probabilities equal the oracle's, wherever they appear."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dashboard
import pytest
import torch
from harness import Server, assert_led_metrics_join, held_out_problems, serve
from oracle import Oracle

pytestmark = pytest.mark.served_models("untied", "trained")

TEMPERATURE = 0.5
SAMPLING = {
    "temperature": TEMPERATURE,
    "max_new_tokens": 32,
    "ignore_eos": True,
    "sampling_seed": 3,
}
# Half-way, so that a completion both explores and exploits, and ends its thought.
WATCHED = {"led": {"depth": 6, "candidates": 8, "trace": True, "behaviour_logprobs": True}}
BIAS = 4.0
# A problem at whose start the trained model is unsure.
UNSURE = 4


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    flags = ("--dtype", "float32", "--enable-metrics", "--extra-metric-labels", '{"site": "test"}')
    with serve(model_path, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def relative(trained: bool) -> float:
    """What float32 leaves of a probability: the trained model's un-normed |z / T| reaches 790."""
    return 2e-3 if trained else 2e-4


@pytest.fixture(scope="module")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)


@pytest.fixture(scope="module")
def leaving(think_ids: tuple[int, int]) -> dict[str, Any]:
    """Sampling that soon ends the thought."""
    return SAMPLING | {"logit_bias": {str(think_ids[1]): BIAS}}


def biased(logits: torch.Tensor, end: int) -> torch.Tensor:
    logits = logits.clone()
    logits[end] += BIAS
    return logits


def test_trace_equals_the_oracle(
    server: Server,
    oracle: Oracle,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
    leaving: dict[str, Any],
    relative: float,
) -> None:
    start, end = think_ids
    answers = server.generate_batch(
        [(prompt, WATCHED, leaving) for prompt in prompts], return_logprob=True
    )
    seen: Counter[str] = Counter()
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, meta = answer["output_ids"], answer["meta_info"]
        logits, streams = oracle.states([*prompt, *tokens])
        assert len(meta["led_trace"]) == len(meta["led_behaviour_logprobs"]) == len(tokens)
        thinking = True
        for index, token in enumerate(tokens):
            entry, logq = meta["led_trace"][index], meta["led_behaviour_logprobs"][index]
            at = len(prompt) + index - 1
            assert entry["token_id"] == token
            assert entry["phase"] == ("think" if thinking else "response")
            seen[entry["phase"]] += 1
            # Log-probabilities keep the engine's meaning: the final posterior at T.
            final = (biased(logits[at], end).double() / TEMPERATURE).log_softmax(0)
            logprob = meta["output_token_logprobs"][index][0]
            assert logprob == pytest.approx(float(final[token]), rel=relative, abs=1e-4)
            if not thinking:
                assert logq is None
                assert set(entry) == {"token_id", "phase"}
                thinking = token == start
                continue
            ref = oracle.step(
                biased(logits[at], end), streams[at], temperature=TEMPERATURE, depth=6, candidates=8
            )
            assert entry["p1"] == pytest.approx(ref.p1, rel=relative)
            assert entry["entropy"] == pytest.approx(ref.entropy, rel=relative, abs=1e-6)
            assert entry["candidate_ids"] == ref.candidate_ids
            close(entry["candidate_probs"], ref.layer_probs[0], relative)
            close(entry["layer_probs"], ref.layer_probs, relative)
            close(entry["behaviour_probs"], ref.behaviour_probs, relative)
            place = ref.candidate_ids.index(token)
            expected = math.log(float(ref.behaviour_probs[place]))
            assert logq == entry["behaviour_logprob"]
            assert logq == pytest.approx(expected, rel=relative, abs=1e-4)
            best = sorted(ref.entropies)[-2:]
            if entry["explored"] and best[1] - best[0] > 1e-5:
                assert entry["depth"] == ref.depth
            seen["explored" if entry["explored"] else "exploited"] += 1
            thinking = token != end
    assert min(seen[name] for name in ("think", "response", "explored", "exploited")) > 10


def close(ours: Any, theirs: torch.Tensor, relative: float) -> None:
    torch.testing.assert_close(
        torch.tensor(ours, dtype=torch.float64), theirs, rtol=relative, atol=1e-7
    )


def test_summary_is_the_sum_of_the_trace(
    server: Server, prompts: list[Sequence[int]], leaving: dict[str, Any]
) -> None:
    for answer in server.generate_batch([(p, WATCHED, leaving) for p in prompts[:8]]):
        trace = [e for e in answer["meta_info"]["led_trace"] if e["phase"] == "think"]
        led = answer["meta_info"]["led"]
        assert led["think_tokens"] == len(trace)
        assert led["explored_tokens"] == sum(e["explored"] for e in trace)
        depths = Counter(str(e["depth"]) for e in trace if e["explored"])
        assert led["depth_histogram"] == dict(depths)
        assert led["mean_p1"] == pytest.approx(sum(e["p1"] for e in trace) / len(trace))
        explored = (i for i, e in enumerate(answer["meta_info"]["led_trace"]) if e.get("explored"))
        assert led["first_explored"] == next(explored, None)


def test_nothing_but_the_summary_unless_asked(server: Server, prompts: list[Sequence[int]]) -> None:
    watched, bare, regular = server.generate_batch(
        [
            (prompts[0], WATCHED, SAMPLING),
            (prompts[1], None, SAMPLING | {"max_new_tokens": 20}),
            (prompts[2], {"sampler": "regular"}, SAMPLING),
        ]
    )
    assert {"led", "led_trace", "led_behaviour_logprobs"} <= watched["meta_info"].keys()
    assert [key for key in bare["meta_info"] if key.startswith("led")] == ["led"]
    assert not any(key.startswith("led") for key in regular["meta_info"])


def events(response: Any) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.iter_lines() if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def test_generate_stream(server: Server, prompts: list[Sequence[int]]) -> None:
    body = {
        "input_ids": list(prompts[0]),
        "sampling_params": SAMPLING | {"custom_params": WATCHED},
    }
    whole = server.post("/generate", body).json()
    chunks = events(server.post("/generate", body | {"stream": True}, stream=True))
    last = chunks[-1]["meta_info"]
    assert len(chunks) > 4
    assert chunks[-1]["output_ids"] == whole["output_ids"]
    assert last["led"] == whole["meta_info"]["led"]
    assert last["led_trace"] == whole["meta_info"]["led_trace"]
    counts = [c["meta_info"]["led"]["think_tokens"] for c in chunks if "led" in c["meta_info"]]
    assert counts == sorted(counts)


def test_openai_streams_sample_with_led(server: Server, trained: bool) -> None:
    problem = held_out_problems()[UNSURE] if trained else "What is 2 + 3?"
    custom = {"sampler": "led", "led": {"gate": "always"}}
    common = {"model": "m", "max_tokens": 16, "seed": 3, "ignore_eos": True, "temperature": 0.3}
    chat = common | {"messages": [{"role": "user", "content": problem}]}
    turns = f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    text = common | {"prompt": turns}
    for path, body, read in [
        ("/v1/chat/completions", chat, lambda c: c["delta"].get("content") or ""),
        ("/v1/completions", text, lambda c: c["text"]),
    ]:
        plain = body | {"custom_params": {"sampler": "led", "led": {"gate": "never"}}}
        body = body | {"custom_params": custom}
        before = totals(server)
        choice = server.post(path, body).json()["choices"][0]
        whole = choice["text"] if "text" in choice else choice["message"]["content"]
        grown = totals(server)
        assert grown["explored_tokens"] - before["explored_tokens"] == 16
        chunks = events(server.post(path, body | {"stream": True}, stream=True))
        assert "".join(read(c["choices"][0]) for c in chunks if c["choices"]) == whole
        assert totals(server)["explored_tokens"] - grown["explored_tokens"] == 16
        choice = server.post(path, plain).json()["choices"][0]
        assert (choice["text"] if "text" in choice else choice["message"]["content"]) != whole


def totals(server: Server) -> dict[str, Any]:
    led = server.get("/server_info").json()["internal_states"][0]["led"]
    result: dict[str, Any] = led["totals"]
    return result


def test_server_info_and_the_ready_block_say_who_computes_the_steps(server: Server) -> None:
    led = server.get("/server_info").json()["internal_states"][0]["led"]
    assert led["kernels"] == "cpu"
    assert "  kernels  cpu\n" in server.ready_log()


def test_server_info_and_metrics(
    server: Server, prompts: list[Sequence[int]], leaving: dict[str, Any]
) -> None:
    before, metrics_before = totals(server), metrics(server)
    answers = server.generate_batch([(p, WATCHED, leaving) for p in prompts[:4]])
    after, metrics_after = totals(server), metrics(server)
    think = sum(a["meta_info"]["led"]["think_tokens"] for a in answers)
    explored = sum(a["meta_info"]["led"]["explored_tokens"] for a in answers)
    depths: Counter[str] = Counter()
    for answer in answers:
        depths.update(answer["meta_info"]["led"]["depth_histogram"])
    assert after["think_tokens"] - before["think_tokens"] == think
    assert after["explored_tokens"] - before["explored_tokens"] == explored
    for depth, count in depths.items():
        grown = after["tokens_per_depth"][depth] - before["tokens_per_depth"].get(depth, 0)
        assert grown == count
        name = "sglang:led_depth_tokens_total", depth
        assert metrics_after[name] - metrics_before[name] == count
    p1 = sum(
        a["meta_info"]["led"]["mean_p1"] * a["meta_info"]["led"]["think_tokens"] for a in answers
    )
    for counter, count in [
        ("sglang:led_think_tokens_total", think),
        ("sglang:led_explored_tokens_total", explored),
        ("sglang:led_p1_sum_total", pytest.approx(p1)),
        ("sglang:led_steps_total", after["steps"] - before["steps"]),
        ("sglang:led_projected_rows_total", after["projected_rows"] - before["projected_rows"]),
    ]:
        assert metrics_after[counter, ""] - metrics_before[counter, ""] == count
    assert after["projected_rows"] > before["projected_rows"]
    assert metrics_after["sglang:led_fell_back", ""] == 0
    assert metrics_after["sglang:led_self_check", ""] == 1


def metrics(server: Server) -> dict[tuple[str, str], float]:
    """LED's counters by name and depth, as README names them."""
    return {
        (name, labels.get("depth", "")): value
        for name, labels, value in server.metrics()
        if name.startswith("sglang:led_")
    }


def test_metrics_have_the_labels_of_sglang_s_own(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    """So that a query can join LED's counters with the scheduler's and the front end's."""
    server.generate(prompts[0], WATCHED, **SAMPLING)
    found = server.metrics()
    own = assert_led_metrics_join(found)
    assert own["site"] == "test"
    ours = {name for name, _, _ in found if name.startswith("sglang:led_")}
    front = next(x for name, x, _ in found if name == "sglang:generation_tokens_total")
    shared = ("model_name", "engine_type", "site")
    assert [front[name] for name in shared] == [own[name] for name in shared]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    named = set(re.findall(r"`(sglang:led_\w+)", readme))
    assert named == ours


MEANINGS = {
    "steps_total": ("counter", "steps with a LED request in the batch"),
    "think_tokens_total": ("counter", "tokens that LED sampled in the think phase"),
    "explored_tokens_total": ("counter", "sampled from a mix with latent layers"),
    "depth_tokens_total": ("counter", "explored tokens by chosen depth"),
    "p1_sum_total": ("counter", "divided by sglang:led_think_tokens_total it is the mean p1"),
    "projected_rows_total": ("counter", "latent rows that LED sent through the LM head"),
    "fell_back": ("gauge", "in plain torch in place of the kernels of this device (1) or not (0)"),
    "self_check": ("gauge", "found LED's steps right (1) or not (0)"),
}


def test_metrics_say_what_they_are(server: Server) -> None:
    """In `# HELP` and `# TYPE`, which Prometheus and Grafana show beside the name."""
    text = server.get("/metrics").text
    shown = {name for name, *_ in server.metrics() if name.startswith("sglang:led_")}
    assert shown == {f"sglang:led_{name}" for name in MEANINGS}
    for name, (kind, meaning) in MEANINGS.items():
        (explained,) = re.findall(rf"^# HELP sglang:led_{name} (.*)$", text, re.MULTILINE)
        assert meaning in explained
        assert f"\n# TYPE sglang:led_{name} {kind}\n" in text


def test_every_expression_of_the_dashboard_finds_its_metrics(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    """Their names and labels; `instance` is Prometheus' own."""
    server.generate(prompts[0], WATCHED, **SAMPLING)
    labels_of: dict[str, set[str]] = {}
    for name, labels, _ in server.metrics():
        labels_of.setdefault(name, {"instance"}).update(labels)
    used = set()
    for expression in dashboard.expressions():
        for name, labels in dashboard.selectors(expression):
            assert labels <= labels_of[name], expression
            used.add(name)
    shown = {name for name in labels_of if name.startswith("sglang:led_")}
    assert shown <= used, "the dashboard shows all of them"
