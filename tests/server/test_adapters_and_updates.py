"""LoRA adapters in the layers, and weights replaced while the server runs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import released_memory_plugin
import requests
import torch
import unpinned_plugin
from features.checks import ALWAYS, GREEDY, compare_led_tokens, think_flags
from graphs.control import EAGER, GRAPHS
from graphs.served import GraphServer, graph_flags, serve_graphs
from harness import Server
from oracle import Oracle
from safetensors.torch import load_file, save_file
from weight_updates import WAYS, from_disk, released

from led_sglang.models.random_qwen3 import write_random_qwen3

RANK, ALPHA = 4, 8.0
SERVED = "tiny"
MODULES = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


@pytest.fixture(scope="module")
def adapter(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter in PEFT's format, large enough to change most tokens.

    Small where it writes to the residual stream: else one direction would drown all others, the
    un-normed latents be sure of one token, and LED change nothing.
    """
    folder = tmp_path_factory.mktemp("adapter")
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, module in Oracle(model_path).model.named_modules():
        if name.rpartition(".")[2] in MODULES:
            out, into = module.weight.shape
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, into, generator=generator) * 0.1
            scale = 0.1 / 6 if name.endswith(("o_proj", "down_proj")) else 0.1
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, RANK, generator=generator) * scale
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_path),
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(MODULES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "other"
    return write_random_qwen3(path, seed=9, dtype="float32")


def merged(model_path: Path, adapter: Path) -> Oracle:
    """The oracle with the adapter in its weights: W + alpha/r * B A."""
    oracle, tensors = Oracle(model_path), load_file(adapter / "adapter_model.safetensors")
    for name, module in oracle.model.named_modules():
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None:
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            with torch.no_grad():
                module.weight += ALPHA / RANK * b @ a
    return oracle


@pytest.fixture(scope="module")
def graph_server(
    model_path: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GraphServer]:
    flags = ["--dtype", "float32", "--enable-lora", "--lora-paths", f"tuned={adapter}"]
    flags += ["--max-lora-rank", str(RANK)]
    flags += ["--served-model-name", SERVED, *graph_flags(decode=(2, 12), prefill=(512,))]
    plugins = (Path(unpinned_plugin.__file__), Path(released_memory_plugin.__file__))
    folder = tmp_path_factory.mktemp("graphs")
    with serve_graphs(model_path, folder, *flags, plugins=plugins) as running:
        yield running


@pytest.fixture(scope="module")
def server(graph_server: GraphServer) -> Server:
    """The same, eager but where a test asks for graphs."""
    return graph_server.served


def greedy(server: Server, prompts: Sequence[Sequence[int]], lora: Any) -> list[list[int]]:
    body = {
        "input_ids": [list(prompt) for prompt in prompts],
        "lora_path": lora,
        "sampling_params": GREEDY | {"max_new_tokens": 40, "custom_params": {"led": ALWAYS}},
    }
    response = server.post("/generate", body)
    assert response.status_code == 200, response.text
    return [answer["output_ids"] for answer in response.json()]


def test_adapter_and_base_in_one_batch(
    server: Server, model_path: Path, adapter: Path, prompts: list[Sequence[int]]
) -> None:
    """Hidden states of each row come from its own adapter; the LM head is shared."""
    oracles = {"tuned": merged(model_path, adapter), None: Oracle(model_path)}
    rows = [(prompt, name) for prompt in prompts[:4] for name in oracles]
    answers = greedy(server, [prompt for prompt, _ in rows], [name for _, name in rows])
    told_apart: Counter[str | None] = Counter()
    for (prompt, name), tokens in zip(rows, answers, strict=True):
        told_apart[name] += compare_led_tokens(oracles[name], prompt, tokens)
    assert min(told_apart.values()) > 0
    assert answers[0] != answers[1]


def test_adapter_and_base_in_one_decode_graph(
    graph_server: GraphServer, prompts: list[Sequence[int]]
) -> None:
    """Eight rows in a bucket of twelve; with this LoRA backend SGLang runs prompts eagerly."""
    names = ["tuned", None] * 4
    eager, graphs = graph_server.both(lambda server: greedy(server, prompts[:8], names))
    graph_server.use(EAGER)
    assert graphs == eager
    graph_server.check_replayed("DECODE")


def test_names_of_adapters_and_samplers(server: Server, adapter: Path) -> None:
    """`NAME:adapter`, `NAME:sampler` and both together."""

    def chat(model: str, **own: Any) -> requests.Response:
        turns = [{"role": "user", "content": "Tell me a story about a fox."}]
        body = {"messages": turns, "max_tokens": 24, "temperature": 0, "return_token_ids": True}
        return server.post("/v1/chat/completions", body | {"model": model} | own)

    def tokens(model: str, **own: Any) -> tuple[int, ...]:
        response = chat(model, **own)
        assert response.status_code == 200, response.text
        return tuple(response.json()["choices"][0]["response_token_ids"])

    seed, regular = {"seed": 4}, {"custom_params": {"sampler": "regular"}}
    found = {
        "led": [tokens(f"{SERVED}:led", **seed), tokens(SERVED, **seed)],
        "regular": [tokens(f"{SERVED}:regular"), tokens(SERVED, **regular)],
        "tuned": [
            tokens(f"{SERVED}:tuned", **seed),
            tokens(f"{SERVED}:tuned:led", **seed),
            tokens(SERVED, lora_path="tuned", **seed),
        ],
        "tuned, regular": [
            tokens(f"{SERVED}:tuned:regular"),
            tokens(f"{SERVED}:regular", lora_path="tuned"),
            tokens(f"{SERVED}:tuned", **regular),
        ],
    }
    assert all(len(set(same)) == 1 for same in found.values()), found
    assert len({same[0] for same in found.values()}) == len(found)
    assert chat(f"{SERVED}:tuned").json()["model"] == f"{SERVED}:tuned:led"
    listed = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert listed == [SERVED, f"{SERVED}:led", f"{SERVED}:regular", "tuned"]
    for unknown in (":nosuch", ":nosuch:led", ":tuned:nosuch", ":tuned:dola"):
        response = chat(SERVED + unknown)
        assert response.status_code == 404, response.text
        assert "does not exist" in response.text
    # SGLang takes any name for the model's own.
    assert chat("other:regular").json()["model"] == "other:regular"
    # A name that could be read in two ways is refused.
    body = {"lora_name": "regular", "lora_path": str(adapter)}
    response = server.post("/load_lora_adapter", body)
    assert response.status_code == 400
    assert "load the adapter under another name" in response.text


def assert_led_of(server: Server, model: Path, prompts: Sequence[Sequence[int]]) -> None:
    """LED reads this model's layers, head and norm."""
    oracle = Oracle(model)
    for led in (ALWAYS, ALWAYS | {"final_norm": True}):
        sampling = GREEDY | {"max_new_tokens": 32}
        answers = server.generate_batch([(p, {"led": led}, sampling) for p in prompts])
        told_apart = sum(
            compare_led_tokens(oracle, prompt, answer["output_ids"], **led)
            for prompt, answer in zip(prompts, answers, strict=True)
        )
        assert told_apart > 0


@pytest.mark.parametrize("way", list(WAYS))
def test_weights_replaced(
    graph_server: GraphServer,
    model_path: Path,
    other_model: Path,
    prompts: list[Sequence[int]],
    way: str,
) -> None:
    """Nothing of the old weights is left in LED, the LM head included, nor in a graph."""
    graph_server.use(GRAPHS if way == "tensors" else EAGER)  # all ways write the same parameters
    for model in (other_model, model_path):
        assert WAYS[way](graph_server.served, model)["success"]
        assert_led_of(graph_server.served, model, prompts[:4])
    graph_server.use(EAGER)


def test_weights_replaced_in_memory_released(
    graph_server: GraphServer, model_path: Path, prompts: list[Sequence[int]]
) -> None:
    """LED needs nothing that a GPU then loses, in its graphs neither."""
    graph_server.use(GRAPHS)
    server = graph_server.served
    assert released(server, lambda: from_disk(server, model_path))["success"]
    assert_led_of(server, model_path, prompts[:2])
    graph_server.use(EAGER)


def test_an_adapter_loaded_while_serving(
    server: Server, model_path: Path, adapter: Path, prompts: list[Sequence[int]]
) -> None:
    assert server.post("/unload_lora_adapter", {"lora_name": "tuned"}).json()["success"]
    body = {"lora_name": "late", "lora_path": str(adapter)}
    assert server.post("/load_lora_adapter", body).json()["success"]
    answers = greedy(server, prompts[:3], ["late"] * 3)
    oracle = merged(model_path, adapter)
    assert sum(map(partial(compare_led_tokens, oracle), prompts, answers)) > 0


def test_an_adapter_that_does_not_fit(
    server: Server, adapter: Path, tmp_path: Path, prompts: list[Sequence[int]]
) -> None:
    """SGLang alone would take it, and end its scheduler at the first request."""
    wider = shutil.copytree(adapter, tmp_path / "wider")
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "o_proj.lora_B" in name:  # the hidden size of another model
            tensors[name] = torch.cat((tensor, tensor[:8]))
    save_file(tensors, wider / "adapter_model.safetensors")
    body = {"lora_name": "wider", "lora_path": str(wider)}
    answer = server.post("/load_lora_adapter", body)
    assert not answer.json()["success"], answer.text
    assert "the adapter wider does not fit the model" in answer.json()["error_message"]
    body = {"text": "a", "lora_path": "wider", "sampling_params": {"max_new_tokens": 1}}
    assert server.post("/generate", body).status_code == 400
    assert greedy(server, prompts[:1], [None])


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_weights_replaced_in_mid_rollout(
    server: Server, model_path: Path, other_model: Path, prompts: list[Sequence[int]], mode: str
) -> None:
    """A paused thought goes on with the new weights; as the engine has it, over the KV of the old
    ones (`in_place`), or over its ids read again (`retract`), whose memory may have been released.
    A thought with its gate shut goes on as the `regular` answer beside it."""
    sampling = GREEDY | {"max_new_tokens": 200, "stream_interval": 1}
    rows: list[tuple[Sequence[int], Any]] = [(prompts[1], {"led": ALWAYS | {"trace": True}})]
    rows += [(prompts[2], {"sampler": "regular"}), (prompts[2], {"led": {"gate": "never"}})]
    body: dict[str, Any] = {"input_ids": [list(prompt) for prompt, _ in rows], "stream": True}
    body["sampling_params"] = [sampling | {"custom_params": custom} for _, custom in rows]

    update = partial(from_disk, server, other_model, flush_cache=mode == "retract")
    answers: dict[int, dict[str, Any]] = {}
    with server.post("/generate", body, stream=True) as stream:
        lines = (line.decode().removeprefix("data: ") for line in stream.iter_lines() if line)
        events = map(json.loads, takewhile(lambda line: line != "[DONE]", lines))
        for event in events:
            answers[event["index"]] = event
            if event["index"] == 0 and len(event["output_ids"]) > 5:
                break
        assert server.post("/pause_generation", {"mode": mode}).status_code == 200
        assert (update() if mode == "in_place" else released(server, update))["success"]
        assert server.post("/continue_generation", {}).status_code == 200
        answers |= {event["index"]: event for event in events}
    last, regular, shut = (answers[index] for index in range(3))
    assert len(shut["output_ids"]) == 200
    assert shut["output_ids"] == regular["output_ids"]
    assert shut["meta_info"]["led"]["think_tokens"] > 0
    tokens, traced = last["output_ids"], last["meta_info"]["led_trace"]
    assert len(tokens) == 200
    assert [entry["token_id"] for entry in traced] == tokens
    assert last["meta_info"]["led"]["think_tokens"] > 0
    if mode == "retract":
        # What comes after the pause is the new model's; where that was, its tokens tell.
        old, new = Oracle(model_path), Oracle(other_model)
        flags = think_flags(prompts[1], tokens)
        at = [
            [
                verdict_at(oracle, prompts[1], tokens, flags, index)
                for index in (2, 3, 4, -4, -3, -2)
            ]
            for oracle in (old, new)
        ]
        assert at[0][:3] == [True] * 3
        assert at[1][3:] == [True] * 3
    assert from_disk(server, model_path)["success"]
    assert_led_of(server, model_path, prompts[:2])


def verdict_at(
    oracle: Oracle, prompt: Sequence[int], tokens: Sequence[int], flags: list[bool], index: int
) -> bool:
    """Whether one token is the oracle's, the ones before it given."""
    index %= len(tokens)
    verdict = oracle.check_greedy(
        [*prompt, *tokens[:index]], tokens[index : index + 1], flags[index : index + 1], **ALWAYS
    )
    return not verdict.differences


@pytest.fixture(scope="module")
def wider_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "wider"
    return write_random_qwen3(path, seed=9, hidden=160, dtype="float32")


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("disk", "the weights do not fit the model"),
        ("tensors", "the weights do not fit the model"),
        ("distributed", "Failed to update parameter online"),
    ],
)
def test_weights_that_do_not_fit(
    server: Server,
    model_path: Path,
    wider_model: Path,
    prompts: list[Sequence[int]],
    way: str,
    said: str,
) -> None:
    """The server says so and lives; but for `distributed` SGLang alone would end its scheduler."""
    answer = WAYS[way](server, wider_model)
    assert not answer["success"]
    assert said in answer["message"]
    assert "\n" not in answer["message"]
    assert from_disk(server, model_path)["success"]  # what came before the misfit is replaced
    assert_led_of(server, model_path, prompts[:2])
