"""DoLa on real servers: greedy tokens equal an oracle over transformers' hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Server, serve
from oracle import NEAR_TIE, Verdict
from transformers import AutoModelForCausalLM

from led_sglang.kernels.reference.dola import DolaReference, dola_reference

GREEDY = {"temperature": 0, "max_new_tokens": 64, "ignore_eos": True}
# Of the 12 layers of the model; `low` starts at 0 only where the LM head has weights of its own.
BUCKETS = {
    "tied": {"low": (2, 4), "high": (6, 8, 10)},
    "untied": {"low": (0, 2, 4), "high": (6, 8, 10)},
}
EXPLICIT = (0, 1, 5, 7, 11)


class DolaOracle:
    """Transformers' float32 model; `hidden_states[j]` is h^j, un-normed for j < L."""

    def __init__(self, path: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.head = self.model.lm_head.weight.detach()

    @torch.no_grad()
    def steps(
        self, prompt: Sequence[int], tokens: Sequence[int], layers: Sequence[int], **options: Any
    ) -> list[DolaReference]:
        """Teacher-forced on the server's tokens: one reference for each of them."""
        out = self.model(torch.tensor([[*prompt, *tokens]]), output_hidden_states=True)
        early = torch.stack([out.hidden_states[j][0] for j in layers])
        places = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
        return [
            dola_reference(out.logits[0, at], early[:, at], self.head, **options) for at in places
        ]


def compare(references: list[DolaReference], tokens: Sequence[int]) -> Verdict:
    """A step may go the second way where layers or tokens are within the near-tie of each other."""
    verdict = Verdict(differences=[])
    assert verdict.differences is not None
    for index, (reference, token) in enumerate(zip(references, tokens, strict=True)):
        verdict.steps += 1
        best, second = reference.scores.topk(2).values.tolist()
        if token == int(reference.scores.argmax()):
            continue
        layers = reference.divergences.sort(descending=True).values
        close_layers = len(layers) > 1 and float(layers[0] - layers[1]) < NEAR_TIE * layers[0]
        if close_layers or best - second < NEAR_TIE * abs(best):
            verdict.near_ties += 1
        else:
            verdict.differences.append(f"step {index}: server {token}")
    return verdict


@pytest.fixture(scope="module", params=["tied", "untied"])
def embeddings(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def path(embeddings: str, model_path: Path, untied_model_path: Path) -> Path:
    return model_path if embeddings == "tied" else untied_model_path


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Server]:
    flags = ("--sampler", "dola", "--enable-samplers", "led", "--dola-layers", "all")
    with serve(path, "--dtype", "float32", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(path: Path) -> DolaOracle:
    return DolaOracle(path)


def test_greedy_tokens_equal_the_oracle(
    server: Server, oracle: DolaOracle, embeddings: str, prompts: list[Sequence[int]]
) -> None:
    settings: list[tuple[dict[str, Any], Sequence[int]]] = [
        ({"layers": "low"}, BUCKETS[embeddings]["low"]),
        ({"layers": "high"}, BUCKETS[embeddings]["high"]),
        ({"layers": list(EXPLICIT)}, EXPLICIT),
        ({"layers": "0,1,5,7,11", "divergence": "jensen-shannon"}, EXPLICIT),
        ({"layers": [3], "relative_top": 0.01}, (3,)),
    ]
    cases = [(prompt, *setting) for setting in settings for prompt in prompts]
    answers = server.generate_batch([(p, {"dola": dola}, GREEDY) for p, dola, _ in cases])
    total, chosen = Verdict(differences=[]), set()
    for (prompt, dola, layers), answer in zip(cases, answers, strict=True):
        options = {key: value for key, value in dola.items() if key != "layers"}
        references = oracle.steps(prompt, answer["output_ids"], layers, **options)
        total.add(compare(references, answer["output_ids"]))
        chosen.update(layers[r.chosen] for r in references)
    print(f"{embeddings}: {total.steps} steps, {total.near_ties} near ties, layers {chosen}")
    assert total.differences == []
    assert total.steps == len(cases) * GREEDY["max_new_tokens"]
    assert total.near_ties < 0.005 * total.steps
    # The choice of a layer is put to the test: several are chosen.
    assert len(chosen) > 2


def test_batch_of_different_prompts_equals_each_alone(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    """Every row has its own candidates and its own choice; LED and plain rows stand between."""
    customs: list[Any] = [
        {"dola": {"layers": "low"}},
        {"dola": {"layers": "high"}},
        {"sampler": "led"},
        {"dola": {"layers": list(EXPLICIT)}},
        {"sampler": "regular"},
    ]
    bodies = [(prompts[i], customs[i % len(customs)], GREEDY) for i in range(16)]
    alone = [server.generate_batch([body])[0]["output_ids"] for body in bodies]
    assert [a["output_ids"] for a in server.generate_batch(bodies)] == alone


def test_penalties_and_filters_come_after(
    server: Server, oracle: DolaOracle, prompts: list[Sequence[int]], embeddings: str
) -> None:
    """A repetition penalty acts on the scores: positive ones are divided, others multiplied.

    SGLang's counts the generated tokens alone, under its overlap scheduler all but the latest one;
    Hugging Face's counts the prompt's too.
    """
    sampling = GREEDY | {"repetition_penalty": 1.2, "max_new_tokens": 24}
    for prompt in prompts[:4]:
        answer = server.generate(prompt, {"dola": {"layers": "high"}}, **sampling)
        tokens = answer["output_ids"]
        references = oracle.steps(prompt, tokens, BUCKETS[embeddings]["high"])
        for index, reference in enumerate(references):
            scores = reference.scores.clone()
            seen = torch.tensor(sorted(set(tokens[: max(index - 1, 0)])), dtype=torch.int64)
            held = scores[seen]
            scores[seen] = torch.where(held > 0, held / 1.2, held * 1.2)
            best, second = scores.topk(2).values.tolist()
            assert tokens[index] == int(scores.argmax()) or best - second < NEAR_TIE * abs(best)


def test_seed_repeats_tokens(server: Server, prompts: list[Sequence[int]]) -> None:
    sampling = {"temperature": 1.0, "max_new_tokens": 32, "ignore_eos": True}
    runs = [
        server.generate(prompts[0], {"dola": {}}, **sampling, sampling_seed=seed)["output_ids"]
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


BAD: list[tuple[Any, str]] = [
    ({"layers": [12]}, "layers"),
    ({"layers": [-1]}, "layers"),
    ({"layers": []}, "layers"),
    ({"layers": [True]}, "layers"),
    ({"layers": "middle"}, "layers"),
    ({"layers": "0,x"}, "layers"),
    ({"relative_top": 0}, "relative_top"),
    ({"divergence": "kl"}, "divergence"),
    ({"depth": 3}, "depth"),
]


@pytest.mark.parametrize(("dola", "key"), BAD)
def test_bad_parameters_are_400_and_name_the_key(
    server: Server, prompts: list[Sequence[int]], dola: Any, key: str
) -> None:
    body = {
        "input_ids": list(prompts[0]),
        "sampling_params": {"custom_params": {"sampler": "dola", "dola": dola}},
    }
    response = server.post("/generate", body)
    assert response.status_code == 400
    assert f"dola.{key}" in response.text
