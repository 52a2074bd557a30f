"""One group by slime's own rollout function, unchanged, from a led-sglang server.

    led-sglang serve --led-logprobs behaviour --dtype float32 --port 30000
    PYTHONPATH=examples:SLIME python -m rl_rollouts.slime_group --url http://127.0.0.1:30000

SLIME is a checkout of slime; of what it requires, this needs `ray`, `httpx` and `pylatexenc`. Each
sample is then drawn again, by its seed, by a request that asks for log q beside the engine's
log-probabilities: slime must have got the same tokens, and log q.
"""

from __future__ import annotations

import argparse
import asyncio
from argparse import Namespace
from typing import Any
from urllib.parse import urlsplit

import requests
from slime.rollout.sglang_rollout import generate_and_rm_group
from slime.utils.http_utils import init_http_client
from slime.utils.types import Sample
from tiny_reasoner.sft import prompt_text
from tiny_reasoner.task import LEVELS, reward
from transformers import AutoTokenizer

from led_sglang.models.bundled import bundled_model
from rl_rollouts.train import HELD_OUT, read

SEED = 7


async def right(args: Namespace, sample: Sample, **_: Any) -> float:
    """slime's `--custom-rm-path`."""
    return reward(sample.response, sample.label)


def slime_arguments(url: str, group: int) -> Namespace:
    """What slime's rollout reads of its command line: `--sglang-enable-deterministic-inference`
    gives each sample of a group a seed of its own."""
    address = urlsplit(url)
    return Namespace(
        hf_checkpoint=str(bundled_model()),
        sglang_router_ip=address.hostname,
        sglang_router_port=address.port,
        rollout_num_engines=1,
        sglang_server_concurrency=group,
        sglang_dp_size=1,
        sglang_enable_deterministic_inference=True,
        use_distributed_post=False,
        rollout_seed=SEED,
        n_samples_per_prompt=group,
        rollout_temperature=1.0,
        rollout_top_p=1.0,
        rollout_top_k=-1,
        rollout_max_response_len=LEVELS["search"].max_new_tokens,
        rollout_stop=None,
        rollout_stop_token_ids=None,
        rollout_skip_special_tokens=False,
        use_rollout_routing_replay=False,
        partial_rollout=False,
        custom_generate_function_path=None,
        custom_rm_path="rl_rollouts.slime_group.right",
        group_rm=False,
        ci_test=False,
    )


def again(url: str, args: Namespace, prompt: str, seed: int) -> dict[str, Any]:
    """`meta_info` of the same draw, with log q in a field of its own."""
    sampling = {
        "temperature": 1.0,
        "max_new_tokens": LEVELS["search"].max_new_tokens,
        "sampling_seed": seed,
        "custom_params": {"led": {"behaviour_logprobs": True}},
    }
    body = {"text": prompt, "sampling_params": sampling, "return_logprob": True}
    answer = requests.post(f"{url}/generate", json=body, timeout=600)
    answer.raise_for_status()
    meta: dict[str, Any] = answer.json()["meta_info"]
    return meta


def main() -> None:
    parser = argparse.ArgumentParser(description="slime's rollout function on led-sglang.")
    parser.add_argument("--url", required=True, help="a led-sglang server of the bundled model")
    parser.add_argument("--group", type=int, default=16)
    options = parser.parse_args()
    args = slime_arguments(options.url, options.group)
    init_http_client(args)
    problem = read(HELD_OUT)[0]
    prompt = prompt_text(AutoTokenizer.from_pretrained(bundled_model()), problem["problem"])
    group = [
        Sample(index=i, prompt=prompt, label=problem["expected_answer"])
        for i in range(options.group)
    ]
    sampling = {
        "temperature": args.rollout_temperature,
        "max_new_tokens": args.rollout_max_response_len,
    }
    samples = asyncio.run(generate_and_rm_group(args, group, sampling))
    tokens, explored, largest = 0, 0, 0.0
    for sample in samples:
        meta = again(options.url, args, prompt, SEED + sample.index)
        entries = meta["output_token_logprobs"]
        ids = [token for _, token, *_ in entries]
        assert sample.tokens[-len(ids) :] == ids, "another draw"
        beside = meta["led_behaviour_logprobs"]
        for got, log_q, (engine, *_) in zip(sample.rollout_log_probs, beside, entries, strict=True):
            largest = max(largest, abs(got - (engine if log_q is None else log_q)))
        tokens += len(ids)
        explored += meta["led"]["explored_tokens"]
    distinct = len({tuple(sample.tokens) for sample in samples})
    rewards = sum(sample.reward for sample in samples) / len(samples)
    print(f"{len(samples)} samples, {distinct} distinct, {tokens} tokens, {explored} explored")
    print(f"mean reward {rewards:.3f}; rollout_log_probs are log q within {largest:.1e}")


if __name__ == "__main__":
    main()
