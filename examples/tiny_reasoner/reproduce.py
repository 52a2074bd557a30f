"""Everything RESULTS.md says, measured: both bundled checkpoints served, evaluated and analysed.

    python -m tiny_reasoner.reproduce --out build/reproduce

Goes on where it was interrupted. `--limit` takes fewer problems, for a quick look.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from led_sglang.methods.registry import sampler_names
from led_sglang.models.bundled import bundled_model
from tiny_reasoner.data import read
from tiny_reasoner.measure import measure
from tiny_reasoner.results import Reproduction, write_results
from tiny_reasoner.unsure import unsure_steps

HERE = Path(__file__).parent
CHECKPOINTS = {"before": "tiny-reasoner-sft", "after": "tiny-reasoner"}
_CONCURRENCY = 256
# Prompts of the layer analysis; the paper takes 30 a benchmark.
_ANALYSED = 30


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure both bundled checkpoints.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE, help="where RESULTS.md goes")
    parser.add_argument("--limit", type=int, default=200, help="held-out problems")
    parser.add_argument("--servers", type=int, default=2, help="at a time, a core each")
    options = parser.parse_args()
    began = time.monotonic()
    models = {label: bundled_model(name) for label, name in CHECKPOINTS.items()}
    rows = read(HERE / "held_out.jsonl")[: options.limit]
    analysed = rows[:_ANALYSED]
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = options.out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in analysed), encoding="utf-8")

    work = [
        lambda: _evaluate(models["after"], "grid", options.out / "after", options.limit),
        lambda: _evaluate(models["before"], "grid", options.out / "before", options.limit),
        lambda: _evaluate(models["after"], "ablations", options.out / "ablations", options.limit),
        *(
            lambda label=label: _analyse(models[label], prompts, options.out / f"layers-{label}")
            for label in CHECKPOINTS
        ),
    ]
    with ThreadPoolExecutor(options.servers) as pool:
        for done in [pool.submit(job) for job in work]:
            done.result()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    results = Reproduction(
        folder=options.out,
        measured={label: measure(model, rows) for label, model in models.items()},
        unsure={
            (label, temperature, normed): unsure_steps(
                models[label],
                options.out / f"layers-{label}" / "tokens.jsonl",
                [row["problem"] for row in analysed],
                temperature=temperature,
                final_norm=normed,
            )
            for label in CHECKPOINTS
            for normed in (False, True)
            for temperature in (0.1, 0.3, 0.6, 1.0)
        },
        minutes=_minutes(options.out / "seconds.txt", time.monotonic() - began),
        cores=len(os.sched_getaffinity(0)),
    )
    print(write_results(results, options.results, HERE / "reading.md"))


def _minutes(file: Path, seconds: float) -> float:
    """Minutes of this start and all before it, kept in a file."""
    with file.open("a", encoding="utf-8") as out:
        out.write(f"{seconds:.0f}\n")
    return sum(map(float, file.read_text(encoding="utf-8").split())) / 60


def _evaluate(model: Path, grid: str, run_dir: Path, limit: int) -> None:
    """`led-sglang eval` over a grid; the server offers every method there is."""
    server = ["--model-path", str(model), "--enable-samplers", ",".join(sampler_names())]
    # float32: PyTorch's bfloat16 is slower on most CPUs.
    server += ["--max-running-requests", str(_CONCURRENCY), "--dtype", "float32"]
    arguments = ["eval", "--launch", shlex.join(server), "--config", str(HERE / f"{grid}.yaml")]
    arguments += ["--limit", str(limit), "--run-dir", str(run_dir)]
    arguments += ["--concurrency", str(_CONCURRENCY), "--grade-workers", "1"]
    if (run_dir / "run.json").exists():
        arguments.append("--resume")
    _led_sglang(arguments, run_dir.with_suffix(".log"))


def _analyse(model: Path, prompts: Path, out: Path) -> None:
    """`led-sglang analyze`: entropy and coverage of every layer."""
    arguments = ["analyze", "--model-path", str(model), "--prompts", str(prompts)]
    arguments += ["--out", str(out), "--max-new-tokens", "72", "--limit", str(_ANALYSED)]
    arguments += ["--dtype", "float32"]
    _led_sglang(arguments, out.with_suffix(".log"))


def _led_sglang(arguments: Sequence[str], log: Path) -> None:
    command = [sys.executable, "-m", "led_sglang.cli", *arguments]
    print(shlex.join(command), "; log:", log, flush=True)
    with log.open("ab") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=out, stderr=out, check=True, env=environment)


if __name__ == "__main__":
    main()
