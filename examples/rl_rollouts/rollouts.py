"""Rollouts from a led-sglang server, in the place of TRL's vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
import torch

# Requests at a time; the server batches them.
_CONCURRENCY = 8


class ServerRollouts:
    """What `GRPOTrainer` asks of its generator.

    Args:
        url: of the server.
        model: the trained model; its weights are sent before the first rollout of a step.
        sampling: sampling parameters of every request, `custom_params` included.
        seed: of the run; request i of step s draws with a seed made of all three.

    Attributes:
        step: of the trainer, which sets it; a run that goes on from a checkpoint draws anew.
    """

    def __init__(self, url: str, model: Any, sampling: Mapping[str, Any], seed: int) -> None:
        self._url, self._model, self._sampling = url, model, dict(sampling)
        self._seed, self.step = seed, 0
        self._session = requests.Session()

    def sync_weights(self) -> None:
        """Send the model's weights, and have the server drop what the old ones have cached.

        Raises:
            RuntimeError: the server does not take them.
        """
        send_weights(self._session, self._url, self._model)

    def generate(
        self, prompts: Sequence[Sequence[int]], **_: Any
    ) -> tuple[Any, list[list[int]], list[list[list[float]]], None]:
        """One completion a prompt, as TRL's generator answers: `(_, ids, log-probabilities, _)`."""
        first = (self._seed * 1_000_003 + self.step + 1) * len(prompts)
        samplings = [
            self._sampling | {"sampling_seed": first + index} for index in range(len(prompts))
        ]
        answers = complete(self._session, self._url, prompts, samplings)
        ids = [[token for _, token, *_ in entries] for entries in answers]
        logprobs = [[[logprob] for logprob, *_ in entries] for entries in answers]
        return prompts, ids, logprobs, None


def complete(
    session: requests.Session,
    url: str,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Mapping[str, Any]],
) -> list[list[Any]]:
    """`output_token_logprobs` of one completion a prompt: (log-probability, id, text) a token.

    Raises:
        RuntimeError: the server refuses a request.
    """
    size = max(1, -(-len(prompts) // _CONCURRENCY))
    parts = [slice(start, start + size) for start in range(0, len(prompts), size)]

    def ask(part: slice) -> list[list[Any]]:
        body = {
            "input_ids": [list(prompt) for prompt in prompts[part]],
            "sampling_params": [dict(sampling) for sampling in samplings[part]],
            "return_logprob": True,
        }
        answers = _post(session, f"{url}/generate", body)
        return [answer["meta_info"]["output_token_logprobs"] for answer in answers]

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        return [entries for found in pool.map(ask, parts) for entries in found]


def send_weights(session: requests.Session, url: str, model: Any) -> None:
    """Replace the served weights by a model's, over shared memory of this machine.

    Raises:
        RuntimeError: the server does not take them.
    """
    from sglang.srt.utils import MultiprocessingSerializer

    tied = model.config.tie_word_embeddings
    tensors = [
        (name, tensor.detach().cpu().contiguous())
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    ]
    # Processes that are not related share memory by name.
    torch.multiprocessing.set_sharing_strategy("file_system")
    text = MultiprocessingSerializer.serialize(tensors, output_str=True)
    _session_call(session, url, "begin_weight_update", {})
    try:
        body = {"serialized_named_tensors": [text], "flush_cache": True}
        _session_call(session, url, "update_weights_from_tensor", body)
    finally:
        _session_call(session, url, "end_weight_update", {})


def _session_call(session: requests.Session, url: str, name: str, body: Any) -> None:
    answer = _post(session, f"{url}/{name}", body)
    if not answer["success"]:
        raise RuntimeError(f"{name}: {answer['message']}")


def _post(session: requests.Session, url: str, body: Any) -> Any:
    answer = session.post(url, json=body, timeout=600)
    if answer.status_code != 200:
        raise RuntimeError(f"{url} answered {answer.status_code}: {answer.text[:400]}")
    return answer.json()
