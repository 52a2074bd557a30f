"""Part B's own processes: real servers, asked the same twice, as lines of JSON.

python -m benchmarks.first_light.server capture --kind dflash --out DIR
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.first_light.models import MODELS, write_model
from led_sglang.common.server_process import running_server
from led_sglang.doctor.device.finding import Finding

_TIMEOUT_S = 600.0
# How far a probability of two forwards may lie apart that differ in kernels or in padding.
_CLOSE = 0.05
_BATCH_SIZES = (1, 3, 5, 17)
_LED = {"sampler": "led", "led": {"gate": "always", "trace": True}}
_PLUGIN = "benchmarks.first_light.sync_plugin:register"


@dataclass(frozen=True)
class Bench:
    """Where servers run.

    Attributes:
        toy: on the CPU platform, small.
        out: folder for models and logs.
    """

    toy: bool
    out: Path
    kind: str

    @contextmanager
    def server(self, name: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[str]:
        """A server of the bench's model; the address."""
        model = self.out / f"model-{self.kind}"
        if not model.exists():
            write_model(self.kind, model, self.toy)
        own = ["--model-path", str(model), "--trust-remote-code", "--led-think-only", "false"]
        own += ["--device", "cpu", "--max-total-tokens", "8192"] if self.toy else []
        with running_server([*own, *flags], self.out / f"{name}.log", _TIMEOUT_S, env=env) as url:
            yield url

    def prompt(self, length: int, seed: int) -> list[int]:
        """Random ids, none of them special."""
        return random.Random(seed).choices(range(256), k=length)


def ask(
    url: str, prompts: Sequence[Sequence[int]], tokens: int, **more: Any
) -> list[dict[str, Any]]:
    """Completions of one message, hence of one batch, with every number of LED's."""
    sampling = {"max_new_tokens": tokens, "temperature": 0.6, "custom_params": _LED}
    body = {
        "input_ids": [list(ids) for ids in prompts],
        "sampling_params": [sampling | {"sampling_seed": 7 + i} for i in range(len(prompts))],
        **more,
    }
    answer = requests.post(f"{url}/generate", json=body, timeout=_TIMEOUT_S)
    answer.raise_for_status()
    answers: list[dict[str, Any]] = answer.json()
    return answers


def compared(check: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Finding:
    """Two runs: how many answers are equal, and how far probabilities of equal prefixes differ."""
    equal, furthest = 0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        equal += one["output_ids"] == other["output_ids"]
        steps = zip(one["meta_info"]["led_trace"], other["meta_info"]["led_trace"], strict=False)
        for mine, their in steps:
            same = mine["candidate_ids"] == their["candidate_ids"]
            for a, b in zip(mine["layer_probs"], their["layer_probs"], strict=True):
                away = max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)
                furthest = max(furthest, away if same else 0.0)
            if mine["token_id"] != their["token_id"]:
                break  # what follows has another prefix
    figures = f"{equal} of {len(ours)} answers equal, probabilities at most {furthest:.1e} apart"
    return Finding(check, furthest <= _CLOSE, figures)


def capture(bench: Bench) -> Iterator[Finding]:
    """The first token's numbers with prefill graphs, which are on by default, and without."""
    prompts = [bench.prompt(n, n) for n in (1, 5, 40, 300)]
    runs = []
    for name, flags in (("default", ()), ("no_prefill_graph", ("--disable-prefill-cuda-graph",))):
        begin = time.monotonic()
        with bench.server(name, *flags) as url:
            seconds = time.monotonic() - begin
            runs.append(ask(url, prompts, 4))
        yield Finding(f"{bench.kind}, {name}", True, f"ready after {seconds:.0f} s, answered")
    yield compared(f"{bench.kind}: prefill graphs against none", *runs)


def decode_graphs(bench: Bench) -> Iterator[Finding]:
    """The same batches with decode graphs and without."""
    runs: list[list[list[dict[str, Any]]]] = []
    for name, flags in (("graphs", ()), ("eager", ("--disable-decode-cuda-graph",))):
        with bench.server(name, "--disable-prefill-cuda-graph", *flags) as url:
            batches = [[bench.prompt(9 + i, i) for i in range(size)] for size in _BATCH_SIZES]
            runs.append([ask(url, prompts, 16) for prompts in batches])
    for size, ours, theirs in zip(_BATCH_SIZES, *runs, strict=True):
        yield compared(f"decode graphs against none, bs {size}", ours, theirs)


def sync(bench: Bench) -> Iterator[Finding]:
    """Requests of all kinds while torch raises wherever a part of LED's step waits."""
    metadata = bench.out / "led_first_light_sync-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Name: led-first-light-sync\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sglang.srt.plugins]\nled_sync = {_PLUGIN}\n")
    path = [str(bench.out), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    flags = ("--enable-samplers", "led,dola,soft-thinking,soft-thinking-gumbel")
    with bench.server("sync", *flags, env=env) as url:
        ask(url, [bench.prompt(9, i) for i in range(8)], 16)
        for sampler in ("dola", "soft-thinking", "soft-thinking-gumbel", "regular"):
            group: dict[str, Any] = {"sampler": sampler}
            body = {
                "input_ids": [bench.prompt(9, i) for i in range(4)],
                "sampling_params": {"max_new_tokens": 16, "custom_params": group},
            }
            requests.post(f"{url}/generate", json=body, timeout=_TIMEOUT_S).raise_for_status()
    watched = (bench.out / "sync.log").read_text(errors="replace").count("watches for waits")
    yield Finding("nothing in LED's step waited", watched > 0, f"{watched} processes were watched")


def overlap(bench: Bench) -> Iterator[Finding]:
    """Staggered requests, some aborted, in little memory: with the overlap scheduler and without.

    Under deterministic inference on a GPU, so that batches of other sizes round alike.
    """
    count = 24 if bench.toy else 200
    flags = ["--max-total-tokens", "600" if bench.toy else "3000"]
    flags += [] if bench.toy else ["--enable-deterministic-inference"]
    runs, retracted = [], []
    for name, more in (("overlap", ()), ("no_overlap", ("--disable-overlap-schedule",))):
        with bench.server(name, *flags, *more) as url:
            runs.append(_staggered(bench, url, count))
        retracted.append(
            (bench.out / f"{name}.log").read_text(errors="replace").count("Retract requests")
        )
    both = [(a, b) for a, b in zip(*runs, strict=True) if a is not None and b is not None]
    equal = sum(a == b for a, b in both)
    figures = f"{equal} of {len(both)} answers equal, {count - len(both)} aborted, "
    figures += f"{retracted} retractions logged"
    yield Finding("overlap against none", equal == len(both) > 0, figures)


def _staggered(bench: Bench, url: str, count: int) -> list[list[int] | None]:
    """Tokens of each request that was not aborted."""

    def one(i: int) -> list[int] | None:
        rng = random.Random(i)
        time.sleep(rng.uniform(0.0, 4.0))
        aborts = i % 10 == 9
        sampling = {"max_new_tokens": 64, "temperature": 0.6, "sampling_seed": i}
        body = {
            "rid": f"first-light-{i}",
            "input_ids": bench.prompt(rng.randrange(4, 60), i),
            "sampling_params": sampling | {"custom_params": {"sampler": "led"}, "ignore_eos": True},
        }
        if aborts:
            pool.submit(_abort, url, f"first-light-{i}")
        answer = requests.post(f"{url}/generate", json=body, timeout=_TIMEOUT_S)
        tokens: list[int] | None = None if aborts else answer.json()["output_ids"]
        return tokens

    # The requests wait in their own threads, the aborts in others.
    with ThreadPoolExecutor(2 * count) as pool:
        return [task.result() for task in [pool.submit(one, i) for i in range(count)]]


def _abort(url: str, rid: str) -> None:
    time.sleep(0.3)
    requests.post(f"{url}/abort_request", json={"rid": rid}, timeout=_TIMEOUT_S)


def memory(bench: Bench) -> Iterator[Finding]:
    """Device memory in use at each stage."""
    stages = [("before", used_mib())]
    with bench.server("memory") as url:
        stages.append(("ready", used_mib()))
        for repeat in range(3):
            ask(url, [bench.prompt(64, i) for i in range(8 if bench.toy else 64)], 32)
            stages.append((f"after batch {repeat + 1}", used_mib()))
    time.sleep(3)
    stages.append(("ended", used_mib()))
    figures = ", ".join(f"{name} {mib}" for name, mib in stages)
    yield Finding("memory in use, MiB", None, figures)


def used_mib() -> int | None:
    """Of all devices together; None without `nvidia-smi`."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.check_output(query, text=True, timeout=30).split()))


CHECKS = {
    "capture": capture,
    "decode-graphs": decode_graphs,
    "sync": sync,
    "overlap": overlap,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--kind", choices=MODELS, default="dflash")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--toy", action="store_true", help="on the CPU platform, small")
    options = parser.parse_args()
    failed = False
    for finding in CHECKS[options.check](Bench(options.toy, options.out, options.kind)):
        print(json.dumps(asdict(finding)), flush=True)
        failed |= finding.passed is False
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
