"""Everything a RESULTS.md says, measured: both checkpoints served, evaluated and analysed.

    python -m tiny_reasoner.reproduce --level budget --out build/reproduce-budget

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
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from led_sglang.methods.registry import sampler_names
from led_sglang.models.bundled import bundled_model, check_files
from tiny_reasoner import explored
from tiny_reasoner.data import read
from tiny_reasoner.measure import measure
from tiny_reasoner.results import Reproduction, write_results
from tiny_reasoner.task import LEVELS
from tiny_reasoner.unsure import unsure_steps

HERE = Path(__file__).parent
_CONCURRENCY = 256
# Prompts of the layer analysis; the paper takes 30 a benchmark.
_ANALYSED = 30
# Samples a problem, drawn by `regular` and by LED with its trace, and their temperatures.
_PAIRS = 16
_EXPLORED_AT = (0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Experiment:
    """What is measured at a level.

    Attributes:
        models: folders of the checkpoints `before` and `after` RL.
        task: name of its YAML file and of its problems, beside this file.
        results: where RESULTS.md, its plots and its reading.md lie.
        limit: held-out problems.
        samplers: of the grid over temperatures, None for all.
    """

    models: dict[str, Path]
    task: str
    results: Path
    limit: int
    samplers: str | None = None


def experiment(level: str) -> Experiment:
    """The experiment of a level."""
    if level == "search":
        names = {"before": "tiny-reasoner-sft", "after": "tiny-reasoner"}
        models = {label: bundled_model(name) for label, name in names.items()}
        return Experiment(models, "held_out", HERE / "search", limit=200)
    names = {"before": "tiny-reasoner-budget-sft", "after": "tiny-reasoner-budget"}
    models = {label: HERE / "models" / name for label, name in names.items()}
    for folder in models.values():
        check_files(folder)
    return Experiment(models, level, HERE, limit=300, samplers="regular,led")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure both checkpoints of a level.")
    parser.add_argument("--level", choices=tuple(LEVELS), default="budget")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="where RESULTS.md goes, if not in its place")
    parser.add_argument("--limit", type=int, help="held-out problems, if not all")
    parser.add_argument("--servers", type=int, default=2, help="at a time, a core each")
    options = parser.parse_args()
    began = time.monotonic()
    chosen, level = experiment(options.level), LEVELS[options.level]
    models, limit = chosen.models, options.limit or chosen.limit
    rows = read(HERE / f"{chosen.task}.jsonl")[:limit]
    analysed = rows[:_ANALYSED]
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = options.out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in analysed), encoding="utf-8")

    flags = ["--tasks", str(HERE / f"{chosen.task}.yaml"), "--limit", str(limit)]
    flags += ["--max-tokens", str(level.max_new_tokens)]
    grid = [*flags, *(["--samplers", chosen.samplers] if chosen.samplers else [])]
    folders = {name: options.out / name for name in ("after", "before", "ablations")}
    pairs = options.out / "pairs.jsonl"
    explored_at = {"temperatures": _EXPLORED_AT, "n": _PAIRS}
    work = [
        lambda: _evaluate(models["after"], "grid", folders["after"], grid),
        lambda: _evaluate(models["before"], "grid", folders["before"], grid),
        lambda: _evaluate(models["after"], "ablations", folders["ablations"], flags),
        lambda: explored.draw(models["after"], rows, level, pairs, **explored_at),
        *(
            lambda label=label: _analyse(
                models[label], prompts, options.out / f"layers-{label}", level.max_new_tokens
            )
            for label in models
        ),
    ]
    with ThreadPoolExecutor(options.servers) as pool:
        for done in [pool.submit(job) for job in work]:
            done.result()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    results = Reproduction(
        folder=options.out,
        measured={label: measure(model, rows, level) for label, model in models.items()},
        unsure={
            (label, temperature, normed): unsure_steps(
                models[label],
                options.out / f"layers-{label}" / "tokens.jsonl",
                [row["problem"] for row in analysed],
                temperature=temperature,
                final_norm=normed,
                walks=level.walks,
            )
            for label in models
            for normed in (False, True)
            for temperature in (0.1, 0.3, 0.6, 1.0)
        },
        pairs=explored.read_pairs(pairs, rows, AutoTokenizer.from_pretrained(models["after"])),
        level=options.level,
        minutes=_minutes(options.out / "seconds.txt", time.monotonic() - began),
        cores=len(os.sched_getaffinity(0)),
    )
    reading = chosen.results / "reading.md"
    print(write_results(results, options.results or chosen.results, reading))


def _minutes(file: Path, seconds: float) -> float:
    """Minutes of this start and all before it, kept in a file."""
    with file.open("a", encoding="utf-8") as out:
        out.write(f"{seconds:.0f}\n")
    return sum(map(float, file.read_text(encoding="utf-8").split())) / 60


def _evaluate(model: Path, grid: str, run_dir: Path, flags: Sequence[str]) -> None:
    """`led-sglang eval` over a grid; the server offers every method there is."""
    server = ["--model-path", str(model), "--enable-samplers", ",".join(sampler_names())]
    # float32: PyTorch's bfloat16 is slower on most CPUs.
    server += ["--max-running-requests", str(_CONCURRENCY), "--dtype", "float32"]
    arguments = ["eval", "--launch", shlex.join(server), "--config", str(HERE / f"{grid}.yaml")]
    arguments += [*flags, "--run-dir", str(run_dir)]
    arguments += ["--concurrency", str(_CONCURRENCY), "--grade-workers", "1"]
    if (run_dir / "run.json").exists():
        arguments.append("--resume")
    _led_sglang(arguments, run_dir.with_suffix(".log"))


def _analyse(model: Path, prompts: Path, out: Path, max_new_tokens: int) -> None:
    """`led-sglang analyze`: entropy and coverage of every layer."""
    arguments = ["analyze", "--model-path", str(model), "--prompts", str(prompts)]
    arguments += ["--out", str(out), "--max-new-tokens", str(max_new_tokens)]
    arguments += ["--limit", str(_ANALYSED), "--dtype", "float32"]
    _led_sglang(arguments, out.with_suffix(".log"))


def _led_sglang(arguments: Sequence[str], log: Path) -> None:
    command = [sys.executable, "-m", "led_sglang.cli", *arguments]
    print(shlex.join(command), "; log:", log, flush=True)
    with log.open("ab") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=out, stderr=out, check=True, env=environment)


if __name__ == "__main__":
    main()
