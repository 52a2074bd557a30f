"""Log q in the fields that trainers on rollouts read: log-probabilities and the sampling mask."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Server, serve
from oracle import Oracle

from led_sglang.kernels import LedReference

RELATIVE = 1e-4  # of q
TEMPERATURE = 0.7
SAMPLING = {"temperature": TEMPERATURE, "max_new_tokens": 72, "ignore_eos": True}
SETTINGS: list[dict[str, Any]] = [
    {"depth": 8, "candidates": 8},
    {"depth": 4, "candidates": 20, "gate": "always", "candidate_top_p": 0.9},
    {"depth": 6, "candidates": 5, "gate": "rate", "gate_rate": 0.4, "normalize_layers": True},
]


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    flags = ("--dtype", "float32", "--led-logprobs", "behaviour")
    flags += ("--enable-samplers", "dola,soft-thinking", "--sampling-mask-max-tokens", "32")
    with serve(model_path, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)


class Steps:
    """What the oracle says of each token of a completion at `TEMPERATURE`."""

    def __init__(self, oracle: Oracle, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        self._oracle, self._first = oracle, len(prompt) - 1
        self._logits, self._streams = oracle.states([*prompt, *tokens])

    def led(self, index: int, led: dict[str, Any]) -> LedReference:
        at = self._first + index
        options = {key: value for key, value in led.items() if key != "gate_rate"}
        value = led.get("gate_rate", 0.0)
        return self._oracle.step(
            self._logits[at],
            self._streams[at],
            temperature=TEMPERATURE,
            gate_value=value,
            **options,
        )

    def final(self, index: int, token: int) -> float:
        """The final posterior's log-probability."""
        logits = self._logits[self._first + index].double() / TEMPERATURE
        return float(logits.log_softmax(0)[token])


def log_q(reference: LedReference, token: int) -> float:
    place = reference.candidate_ids.index(token)
    return math.log(float(reference.behaviour_probs[place]))


def logprobs(answer: dict[str, Any]) -> list[float]:
    return [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]]


def thinks(think_ids: tuple[int, int], tokens: Sequence[int]) -> list[bool]:
    """Per token, whether it was sampled in the thought that the prompt has opened."""
    start, end = think_ids
    flags, thinking = [], True
    for token in tokens:
        flags.append(thinking)
        thinking = token != end if thinking else token == start
    return flags


@pytest.mark.parametrize("led", SETTINGS)
def test_output_logprobs_are_log_q(
    server: Server,
    oracle: Oracle,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
    led: dict[str, Any],
) -> None:
    """By the server's default; the answer behind the thought keeps the engine's value."""
    # Some leave the thought early.
    bias = {"logit_bias": {str(think_ids[1]): 3.0}}
    bodies = [(prompt, {"led": led}, SAMPLING) for prompt in prompts[:5]]
    bodies += [(prompt, {"led": led}, SAMPLING | bias) for prompt in prompts[5:7]]
    seen = {True: 0, False: 0}
    for body, answer in zip(
        bodies, server.generate_batch(bodies, return_logprob=True), strict=True
    ):
        tokens = answer["output_ids"]
        flags = thinks(think_ids, tokens)
        seen[False] += flags.count(False)
        if body[2] is not SAMPLING:
            continue
        steps = Steps(oracle, body[0], tokens)
        for index, (token, logprob) in enumerate(zip(tokens, logprobs(answer), strict=True)):
            if flags[index]:
                assert logprob == pytest.approx(log_q(steps.led(index, led), token), abs=RELATIVE)
            else:
                assert logprob == pytest.approx(steps.final(index, token), abs=RELATIVE)
            seen[flags[index]] += 1
    assert seen[True] > 66  # 200 over the three settings
    assert seen[False] > 20


def test_the_same_in_every_form(
    server: Server, prompts: list[Sequence[int]], tokenizer: Any
) -> None:
    """Streamed, one of several samples, in a chat; and the statistics do not change."""
    led = SETTINGS[0]
    sampling = SAMPLING | {"sampling_seed": 5, "custom_params": {"led": led}}
    body = {"input_ids": list(prompts[1]), "sampling_params": sampling, "return_logprob": True}
    whole = server.post("/generate", body).json()
    stated = whole["meta_info"]

    other = led | {"logprobs": "engine", "behaviour_logprobs": True}
    engine = server.post(
        "/generate", body | {"sampling_params": sampling | {"custom_params": {"led": other}}}
    ).json()
    assert engine["output_ids"] == whole["output_ids"]
    assert engine["meta_info"]["led"] == stated["led"]
    # Which of the two it is stands beside them.
    for answer, which in ((whole, "behaviour"), (engine, "engine")):
        assert answer["meta_info"]["sampler"]["settings"]["logprobs"] == which
    assert logprobs(engine) != logprobs(whole)
    for index, behaviour in enumerate(engine["meta_info"]["led_behaviour_logprobs"]):
        want = logprobs(engine)[index] if behaviour is None else behaviour
        assert logprobs(whole)[index] == pytest.approx(want, abs=1e-6)

    streamed = server.post("/generate", body | {"stream": True}, stream=True)
    lines = [line.decode() for line in streamed.iter_lines() if line]
    last = json.loads(lines[-2].removeprefix("data: "))
    assert logprobs(last) == logprobs(whole)

    samples = server.post("/generate", body | {"sampling_params": sampling | {"n": 2}}).json()
    assert samples[0]["output_ids"] == whole["output_ids"]
    assert logprobs(samples[0]) == pytest.approx(logprobs(whole), abs=RELATIVE)
    assert logprobs(samples[1]) != logprobs(whole)

    chat = server.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "What is 2 + 3?"}],
            "temperature": TEMPERATURE,
            "max_tokens": 16,
            "seed": 5,
            "logprobs": True,
            "custom_params": {"led": led | {"behaviour_logprobs": True}},
            "return_meta_info": True,
        },
    ).json()["choices"][0]
    content = [entry["logprob"] for entry in chat["logprobs"]["content"]]
    behaviour = chat["meta_info"]["led_behaviour_logprobs"]
    assert content[0] == pytest.approx(behaviour[0], abs=1e-6)
    assert content == pytest.approx(
        [c if b is None else b for c, b in zip(content, behaviour, strict=True)], abs=1e-6
    )


def masks(answer: dict[str, Any]) -> list[tuple[list[int], Any]]:
    """Per token its set, and log-probabilities of all of it, or of the drawn one alone."""
    meta = answer["meta_info"]
    return list(
        zip(meta["output_token_sampling_mask"], meta["output_token_sampling_logprobs"], strict=True)
    )


@pytest.mark.parametrize("mode", ["selected", "support"])
@pytest.mark.parametrize("seed", [{}, {"sampling_seed": 3}])
def test_the_mask_is_the_support_of_q(
    server: Server,
    oracle: Oracle,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
    mode: str,
    seed: dict[str, int],
) -> None:
    """Candidates and q while thinking, the engine's own filters behind it and for its own rows."""
    sampling = SAMPLING | {"max_new_tokens": 24, "top_k": 6} | seed
    answered = [*prompts[0], think_ids[1]]
    bodies = [(prompts[1], {"led": SETTINGS[1]}, sampling)]
    bodies += [(prompts[2], {"led": SETTINGS[0]}, sampling)]
    bodies += [(answered, {"led": SETTINGS[0]}, sampling)]
    bodies += [(prompts[3], {"sampler": name}, sampling) for name in ("regular", "dola")]
    options = {"return_logprob": True, "return_sampling_mask": True}
    answers = server.generate_batch(bodies, **options, sampling_logprobs_mode=mode)
    for row, ((prompt, custom, _), answer) in enumerate(zip(bodies, answers, strict=True)):
        tokens = answer["output_ids"]
        flags = thinks(think_ids, tokens) if row < 2 else [False] * len(tokens)
        steps = Steps(oracle, prompt, tokens)
        for index, (ids, logs) in enumerate(masks(answer)):
            token = tokens[index]
            assert token in ids
            mine = logs
            if mode == "support":
                assert len(logs) == len(ids)
                mine = logs[ids.index(token)]
                assert sum(map(math.exp, logs)) == pytest.approx(1.0, abs=1e-5)
                assert logs == sorted(logs, reverse=True)
            if flags[index]:
                want = steps.led(index, custom["led"])
                likely = [
                    token
                    for token, q in zip(want.candidate_ids, want.behaviour_probs, strict=True)
                    if q > 1e-30
                ]
                assert set(ids) == set(likely)
                assert mine == pytest.approx(log_q(want, token), abs=RELATIVE)
                assert mine == pytest.approx(logprobs(answer)[index], abs=1e-6)
            elif row == 2 and all(t not in think_ids for t in tokens[:index]):
                # of the engine's six likeliest
                assert len(ids) == 6
                total = math.log(sum(math.exp(steps.final(index, other)) for other in ids))
                assert mine == pytest.approx(steps.final(index, token) - total, abs=RELATIVE)


def test_a_greedy_mask_is_its_token(server: Server, prompts: list[Sequence[int]]) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    options = {"return_logprob": True, "return_sampling_mask": True}
    options |= {"sampling_logprobs_mode": "support"}
    (answer,) = server.generate_batch([(prompts[1], {"led": SETTINGS[0]}, sampling)], **options)
    assert masks(answer) == [([token], [0.0]) for token in answer["output_ids"]]
    # The release draws its gate at temperature 0 as well: one of two tokens.
    release = {"preset": "release", "depth": 8, "candidates": 8}
    (answer,) = server.generate_batch([(prompts[1], {"led": release}, sampling)], **options)
    assert {len(ids) for ids, _ in masks(answer)} <= {1, 2}
    for ids, logs in masks(answer):
        assert sum(map(math.exp, logs)) == pytest.approx(1.0, abs=1e-5), ids


def test_regular_rows_keep_the_engines_mask(server: Server, prompts: list[Sequence[int]]) -> None:
    """Beside rows of LED and without them."""
    regular = (prompts[3], {"sampler": "regular"}, SAMPLING | {"top_k": 5, "sampling_seed": 1})
    greedy = (prompts[4], {"sampler": "regular"}, {"temperature": 0, "max_new_tokens": 8})
    led = (prompts[1], {"led": SETTINGS[0]}, SAMPLING | {"top_k": 9})
    options = {"return_sampling_mask": True, "sampling_logprobs_mode": "support"}
    beside = server.generate_batch([regular, led, greedy], **options)
    alone = server.generate_batch([greedy], **options)
    assert masks(beside[2])[0] == masks(alone[0])[0]
    for token, (ids, logs) in zip(beside[0]["output_ids"], masks(beside[0]), strict=True):
        assert token in ids
        assert len(ids) == len(logs) == 5


@pytest.mark.parametrize("custom", [{"sampler": "regular"}, {"led": SETTINGS[0]}])
def test_every_sample_of_several_has_its_mask(
    server: Server, prompts: list[Sequence[int]], custom: dict[str, Any]
) -> None:
    """SGLang alone answers HTTP 500, for the prompt that it asks first."""
    sampling = SAMPLING | {"top_k": 6, "sampling_seed": 5, "custom_params": custom}
    options = {"return_logprob": True, "return_sampling_mask": True}
    body = {"input_ids": list(prompts[1]), "sampling_params": sampling | {"n": 2}} | options
    answers = server.post("/generate", body).json()
    assert len(answers) == 2
    for answer in answers:
        assert all(
            token in ids
            for token, (ids, _) in zip(answer["output_ids"], masks(answer), strict=True)
        )
    nothing = body | {"sampling_params": sampling | {"max_new_tokens": 0}}
    assert server.post("/generate", nothing).json()["output_ids"] == []


@pytest.mark.parametrize(
    ("custom", "sampling", "said"),
    [
        ({"sampler": "dola", "dola": {"logprobs": "behaviour"}}, {}, "dola.logprobs is unknown"),
        ({"sampler": "regular", "led": {"logprobs": "behaviour"}}, {}, "does not apply"),
        ({"led": {"logprobs": "q"}}, {}, "engine, behaviour"),
        ({"led": {}}, {}, "top_k in 1..32"),
        ({"led": {}}, {"top_k": 33}, "top_k in 1..32"),
        ({"led": {"candidates": 33}}, {"top_k": 5}, "--sampling-mask-max-tokens"),
        ({"sampler": "soft-thinking"}, {"top_k": 5}, "return_sampling_mask does not go with"),
    ],
)
def test_what_cannot_be_stated_is_refused(
    server: Server,
    prompts: list[Sequence[int]],
    custom: dict[str, Any],
    sampling: dict[str, Any],
    said: str,
) -> None:
    body = {
        "input_ids": list(prompts[0]),
        "sampling_params": {"max_new_tokens": 4, "custom_params": custom} | sampling,
        "return_sampling_mask": True,
    }
    response = server.post("/generate", body)
    assert response.status_code == 400, response.text
    assert said in response.text
