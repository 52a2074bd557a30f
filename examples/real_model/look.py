"""Look into the model: entropy and coverage of every layer on GSM8K, and traces of LED.

    python -m real_model.look --model build/real_model/SmolLM2-135M-Instruct --out build/real_model

What is there is not made again; what was interrupted is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from led_sglang import cli
from led_sglang.common.paths import writable_folder
from led_sglang.common.server_process import running_server
from led_sglang.common.terminal import FAILED, finish
from led_sglang.evaluation.tasks import load_task

# The model has no think delimiters: LED may explore in the whole answer.
SERVER = ("--led-think-only", "false")
RESULTS = ("trace.html", "trace-final-norm.html", "analysis")


def results(url: str, limit: int, max_new_tokens: int) -> dict[str, list[str]]:
    """The commands of `led-sglang` by what each leaves behind, without their `--out`."""
    task = load_task("gsm8k", limit=1)
    server = ["--base-url", url, "--max-new-tokens", str(max_new_tokens)]
    trace = ["trace", *server, "--prompt", task.prompt(task.items[0]), "--seed", "1"]
    norm = json.dumps({"final_norm": True})
    commands = (
        trace,
        [*trace, "--led", norm],
        ["analyze", *server, "--tasks", "gsm8k", "--limit", str(limit)],
    )
    return dict(zip(RESULTS, commands, strict=True))


def look(model: Path, folder: Path, limit: int = 30, max_new_tokens: int = 128) -> int:
    """Make what is missing, on one server.

    Args:
        model: the checkpoint.
        folder: where RESULTS and the server's log go; a result appears when it is finished.
        limit: GSM8K problems.
        max_new_tokens: of each answer, at most.

    Returns:
        The exit status: 0, or 2 where a command could not go on, which it says itself.
    """
    writable_folder(folder, "--out")
    missing = [name for name in RESULTS if not (folder / name).exists()]
    if not missing:
        return 0
    with running_server(["--model-path", str(model), *SERVER], folder / "server.log") as url:
        commands = results(url, limit, max_new_tokens)
        for name in missing:
            partial = folder / f"partial-{name}"
            shutil.rmtree(partial, ignore_errors=True)
            if cli.main([*commands[name], "--out", str(partial)]) != 0:
                return FAILED
            partial.rename(folder / name)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--limit", type=int, default=30, help="GSM8K problems")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of each answer, at most")
    options = parser.parse_args()
    return look(options.model, options.out, options.limit, options.max_new_tokens)


if __name__ == "__main__":
    sys.exit(finish(main))
