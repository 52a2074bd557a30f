"""What NGRAM speculation brings LED on this machine: pairs of rounds on two servers at once.

    python benchmarks/speculation.py --drafted 4

Serves the bundled model without and with drafts. A round is the same batch of problems, asked of
one arm after the other: LED alone, LED with drafts, `regular` with drafts. Every round asks for the
same problems with the same seeds, so that from the second on earlier answers are drafted: these are
prompts that repeat themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from led_sglang.common.client import ServerClient
from led_sglang.common.provenance import processor
from led_sglang.common.server_process import running_server
from led_sglang.models.bundled import bundled_model

HELD_OUT = Path(__file__).parents[1] / "examples" / "tiny_reasoner" / "held_out.jsonl"
TIMEOUT_S = 600.0
TOKENS = 64


def bodies(url: str, batch: int, sampler: str) -> dict[str, Any]:
    """A batch of held-out problems, seeded."""
    client = ServerClient(url, TIMEOUT_S)
    problems = [json.loads(line)["problem"] for line in HELD_OUT.read_text().splitlines()[:batch]]
    sampling = [
        {
            "temperature": 0.6,
            "max_new_tokens": TOKENS,
            "ignore_eos": True,
            "sampling_seed": 100 + i,
            "custom_params": {"sampler": sampler},
        }
        for i in range(batch)
    ]
    ids = [list(client.chat_tokens(problem)) for problem in problems]
    return {"input_ids": ids, "sampling_params": sampling}


def measure(url: str, body: dict[str, Any]) -> tuple[float, float]:
    """Tokens a second of a batch, and tokens a verification (1 without drafts)."""
    begin = time.perf_counter()
    answer = requests.post(url + "/generate", json=body, timeout=TIMEOUT_S)
    seconds = time.perf_counter() - begin
    answer.raise_for_status()
    seen = [one["meta_info"] for one in answer.json()]
    tokens = sum(meta["completion_tokens"] for meta in seen)
    verified = sum(meta.get("spec_verify_ct", meta["completion_tokens"]) for meta in seen)
    return tokens / seconds, tokens / verified


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--drafted", type=int, default=4, help="nodes of a draft")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    flags = ["--model-path", str(bundled_model()), "--device", "cpu", "--random-seed", "1"]
    drafting = ["--speculative-algorithm", "NGRAM"]
    drafting += ["--speculative-num-draft-tokens", str(arguments.drafted)]
    environment = {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"}
    print(f"{processor()}; {arguments.drafted} nodes a draft, {TOKENS} tokens an answer")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(flags, Path(folder) / "alone.txt", env=environment) as alone,
        running_server([*flags, *drafting], Path(folder) / "drafts.txt", env=environment) as drafts,
    ):
        arms = {
            "LED": (alone, "led"),
            "LED + NGRAM": (drafts, "led"),
            "regular + NGRAM": (drafts, "regular"),
        }
        for batch in arguments.batch:
            asked = {name: bodies(url, batch, sampler) for name, (url, sampler) in arms.items()}
            speeds: dict[str, list[float]] = {name: [] for name in arms}
            lengths: dict[str, float] = {}
            for round_ in range(arguments.rounds + 2):
                for name, (url, _) in arms.items():
                    speed, lengths[name] = measure(url, asked[name])
                    if round_ >= 2:  # the first fill the corpus
                        speeds[name].append(speed)
            for name, other in (("LED + NGRAM", "LED"), ("LED + NGRAM", "regular + NGRAM")):
                ratios = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
                print(
                    f"batch {batch}: {name} / {other} = {statistics.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f} of {len(ratios)} pairs); "
                    f"{statistics.median(speeds[name]):.0f} and "
                    f"{statistics.median(speeds[other]):.0f} tokens/s, "
                    f"{lengths[name]:.2f} and {lengths[other]:.2f} tokens a verification",
                    flush=True,
                )


if __name__ == "__main__":
    main()
