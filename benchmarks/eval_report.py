"""Time and memory of the report: `python benchmarks/eval_report.py [SAMPLES] [CHARACTERS]`.

Synthetic results of 2 tasks, 2 samplers, 2 temperatures and n = 16, each sample with so many
characters of thinking. Prints seconds by the clock and of the processor, peak memory of the process
and the size of what it wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from led_sglang.evaluation.grid import make_grid
from led_sglang.evaluation.report.write import write_report
from led_sglang.evaluation.store import Key, RunStore, sample_path

N, TEMPERATURES, SAMPLERS, TASKS = 16, (0.1, 0.6), ("regular", "led"), ("math500", "gsm8k")


def write_samples(folder: Path, samples: int, characters: int) -> int:
    """Fill a run directory; returns the number of samples, at least `samples`."""
    items = math.ceil(samples / (N * len(TEMPERATURES) * len(SAMPLERS) * len(TASKS)))
    grid = make_grid(
        {"tasks": TASKS, "samplers": SAMPLERS, "temperatures": TEMPERATURES, "n": N}, "benchmark"
    )
    generator = random.Random(0)
    text = "".join(generator.choices("abcdefghij \n<&", k=characters))
    tasks = {task: {"kind": "math", "items": items, "prompts": "x"} for task in TASKS}
    settings = {"model": "synthetic", "server": {}, "grid": asdict(grid), "tasks": tasks}
    (folder / "run.json").write_text(json.dumps(settings))
    session = {"started": "2026-01-01T00:00:00+00:00", "concurrency": 64}
    (folder / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    for task in TASKS:
        for sampler in SAMPLERS:
            for temperature in TEMPERATURES:
                for sample in range(N):
                    path = (
                        folder
                        / "samples"
                        / sample_path(Key(task, sampler, temperature, "", sample))
                    )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("w") as file:
                        for item in range(items):
                            record = _record(generator, task, sampler, temperature, item, sample)
                            record["reasoning_content"] = f"{generator.random()}{text}"
                            file.write(json.dumps(record) + "\n")
    return items * N * len(TEMPERATURES) * len(SAMPLERS) * len(TASKS)


def _record(
    generator: random.Random, task: str, sampler: str, temperature: float, item: int, sample: int
) -> dict[str, object]:
    difficulty = int(hashlib.sha256(f"{task}{item}".encode()).hexdigest()[:4], 16) / 0xFFFF
    correct = generator.random() < difficulty + 0.03 * (sampler == "led")
    answer = "1" if correct else str(generator.randrange(2, 6))
    tokens = generator.randrange(2000, 20000)
    led = {
        "think_tokens": tokens,
        "explored_tokens": tokens // 5,
        "depth_histogram": {str(d): tokens // 40 for d in range(1, 9)},
        "mean_p1": 0.9,
        "first_explored": generator.randrange(20),
    }
    return {
        "id": f"{task}-{item}",
        "problem": "What is 0 + 1?",
        "expected_answer": "1",
        "generation": f"So it is \\boxed{{{answer}}}.",
        "predicted_answer": answer,
        "symbolic_correct": correct,
        "num_generated_tokens": tokens + 100,
        "num_reasoning_tokens": tokens,
        "finish_reason": "stop",
        "outcome": "correct" if correct else "wrong",
        "truncated": False,
        "vote": answer,
        "official_correct": None,
        "led": led if sampler == "led" else None,
        "task": task,
        "sampler": sampler,
        "temperature": temperature,
        "sample": sample,
        "seed": sample,
        "request": {"messages": [{"role": "user", "content": "What is 0 + 1?"}]},
        "finished": 1767225600 + generator.random() * 3600,
    }


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    characters = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        written = write_samples(folder, samples, characters)
        size = sum(file.stat().st_size for file in folder.rglob("*.jsonl"))
        started, worked = time.monotonic(), time.process_time()
        write_report(RunStore(folder))
        seconds, processor = time.monotonic() - started, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = (folder / "report.html").stat().st_size
    print(
        f"{written:,} samples ({size / 1e6:,.0f} MB of JSONL): {seconds:.1f} s "
        f"({processor:.1f} s of one processor), "
        f"peak {peak:,.0f} MiB, report.html {report / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
