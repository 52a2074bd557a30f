"""Everything RESULTS.md says, measured: both bundled checkpoints served, evaluated and analysed.

    python -m tiny_reasoner.reproduce --out build/reproduce

Goes on where it was interrupted. `--limit` takes fewer problems, for a quick look.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from led_sglang.bundled import bundled_model
from led_sglang.settings import SAMPLERS
from tiny_reasoner.data import read
from tiny_reasoner.measure import measure
from tiny_reasoner.results import Reproduction, write_results

HERE = Path(__file__).parent
CHECKPOINTS = {"before": "tiny-reasoner-sft", "after": "tiny-reasoner"}
_CONCURRENCY = 64
# Prompts of the layer analysis; the paper takes 30 a benchmark.
_ANALYSED = 30


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure both bundled checkpoints.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE, help="where RESULTS.md goes")
    parser.add_argument("--limit", type=int, default=200, help="held-out problems")
    options = parser.parse_args()
    began = time.monotonic()
    models = {label: bundled_model(name) for label, name in CHECKPOINTS.items()}
    rows = read(HERE / "held_out.jsonl")[: options.limit]
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = options.out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows[:_ANALYSED]))

    # Two servers at a time, one core each.
    work = [
        lambda: _evaluate(models["after"], "grid", options.out / "after", options.limit),
        lambda: _evaluate(models["before"], "grid", options.out / "before", options.limit),
        lambda: _evaluate(models["after"], "ablations", options.out / "ablations", options.limit),
        *(
            lambda label=label: _analyse(models[label], prompts, options.out / f"layers-{label}")
            for label in CHECKPOINTS
        ),
    ]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(job) for job in work]:
            done.result()
    results = Reproduction(
        folder=options.out,
        measured={label: measure(model, rows) for label, model in models.items()},
        minutes=(time.monotonic() - began) / 60,
    )
    print(write_results(results, options.results))


def _evaluate(model: Path, grid: str, run_dir: Path, limit: int) -> None:
    """`led-sglang eval` over a grid; the server offers every method there is."""
    server = ["--model-path", str(model), "--enable-samplers", ",".join(SAMPLERS)]
    server += ["--max-running-requests", str(_CONCURRENCY)]
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
    _led_sglang(arguments, out.with_suffix(".log"))


def _led_sglang(arguments: Sequence[str], log: Path) -> None:
    command = [sys.executable, "-m", "led_sglang.cli", *arguments]
    print(shlex.join(command), "; log:", log, flush=True)
    with log.open("ab") as out:
        subprocess.run(command, stdout=out, stderr=out, check=True)


if __name__ == "__main__":
    main()
