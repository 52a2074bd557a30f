"""Memory and speed of the layer analysis over many tokens of a random Qwen3.

    python benchmarks/analysis_memory.py --tokens 1000000

Prints the process's resident memory as tokens go by; it must not grow with them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil
import torch

from led_sglang.analysis import LayerAnalysis
from led_sglang.analysis.forward import load_model
from led_sglang.models.random_qwen3 import write_random_qwen3

PROMPT, ANSWER = 64, 2048


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_qwen3(Path(folder) / "model")
        model = load_model(path, arguments.device, "float32")
    analysis = LayerAnalysis(model, temperature=0.6)
    vocab, generator = model.config.vocab_size, torch.Generator().manual_seed(0)
    process, begin, done, step = psutil.Process(), time.perf_counter(), 0, arguments.tokens // 10
    print("tokens      resident MiB   device MiB (peak)   tokens/s", flush=True)
    reported = -step
    while done < arguments.tokens:
        prompt = torch.randint(vocab, (PROMPT,), generator=generator).tolist()
        answer = torch.randint(vocab, (ANSWER,), generator=generator).tolist()
        analysis.add(prompt, answer)
        done += ANSWER
        if done - reported >= step:
            reported = done
            device = torch.cuda.max_memory_allocated() if arguments.device != "cpu" else 0
            rate = done / (time.perf_counter() - begin)
            print(
                f"{done:9,d}   {process.memory_info().rss / 2**20:12.1f}   {device / 2**20:17.1f}"
                f"   {rate:8.0f}",
                flush=True,
            )
    print(f"analysed {analysis.table().tokens:,} tokens")


if __name__ == "__main__":
    main()
