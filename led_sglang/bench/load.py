"""The load: SGLang's own `bench_serving`, its public flags, in a process that has it loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from led_sglang.bench import BenchError
from led_sglang.bench.plan import Arm, Plan

_LOG_TAIL = 600


def load_flags(
    plan: Plan, arm: Arm, batch_size: int, seed: int, url: str, model: str, output: Path
) -> list[str]:
    """Flags of `bench_serving` for one run: all requests at once, all of the same length.

    Args:
        seed: of the prompts; both runs of a pair get the same.
        model: folder or name, for its tokenizer.
        output: file the result is appended to.
    """
    sampling: dict[str, Any] = {
        "temperature": plan.temperature,
        "max_new_tokens": plan.output_len,
        "ignore_eos": True,
    }
    if arm.custom_params is not None:
        sampling["custom_params"] = arm.custom_params
    if plan.prompts is None:
        data = ["--dataset-name", "random-ids", "--tokenize-prompt"]
        data += ["--random-input-len", str(plan.context), "--random-range-ratio", "1"]
        data += ["--random-output-len", str(plan.output_len)]
    else:
        data = ["--dataset-name", "custom", "--dataset-path", plan.prompts]
        data += ["--sharegpt-output-len", str(plan.output_len), "--apply-chat-template"]
    return [
        *("--backend", "sglang", "--base-url", url, "--model", model, "--tokenizer", model),
        *data,
        *("--num-prompts", str(batch_size), "--max-concurrency", str(batch_size)),
        *("--request-rate", "inf", "--warmup-requests", "0", "--flush-cache"),
        *("--seed", str(seed), "--disable-tqdm"),
        *("--extra-request-body", json.dumps({"sampling_params": sampling})),
        *("--output-file", str(output), "--output-details"),
    ]


class LoadGenerator:
    """Runs `bench_serving` again and again without loading it again and again.

    Each run is a process forked from one that has imported it: as on the command line, but for the
    ten seconds of processor time that the imports take.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "bench_serving.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "led_sglang.bench.load_process", str(self._log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the command, which then ends this process
        )

    def __enter__(self) -> LoadGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def run(
        self, plan: Plan, arm: Arm, batch_size: int, seed: int, url: str, model: str, *more: str
    ) -> dict[str, Any]:
        """One run.

        Args:
            more: further flags of `bench_serving`.

        Returns:
            What `bench_serving --output-details` writes.

        Raises:
            BenchError: it failed, or requests did.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._folder / "bench_serving.jsonl"
        output.unlink(missing_ok=True)
        flags = [*load_flags(plan, arm, batch_size, seed, url, model, output), *more]
        self._process.stdin.write(json.dumps(flags) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        if status != "0" or not output.is_file():
            tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
            raise BenchError(f"bench_serving ended with status {status or 'none'}:\n{tail}")
        result: dict[str, Any] = json.loads(output.read_text().splitlines()[-1])
        failed = [error for error in result["errors"] if error]
        if failed or result["completed"] != batch_size:
            why = failed[0].strip().splitlines()[-1] if failed else "no reason given"
            raise BenchError(
                f"{batch_size - result['completed']} of {batch_size} requests failed ({why})"
            )
        return result
