"""`led-sglang analyze`: answers from a server, then statistics of every layer over their tokens."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_sglang.analysis.forward import AnalysisError, LayerAnalysis, load_model
from led_sglang.analysis.prompts import read_prompts
from led_sglang.analysis.report import write_report
from led_sglang.client import ServerClient, ServerError
from led_sglang.evaluation import EvaluationError
from led_sglang.extras import MissingExtra, need
from led_sglang.server_process import running_server

TOKENS = "tokens.jsonl"
_SERVER_LOG = "server.log"


def analyze(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after `analyze`; what follows `--` goes to `led-sglang serve`.

    Returns:
        The exit status: 0, or 2 where the input, the server or the model is not fit for it.
    """
    own, serve_flags = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, serve_flags = own[:cut], own[cut + 1 :]
    parser = _parser()
    arguments = parser.parse_args(own)
    if serve_flags and arguments.base_url:
        parser.error("flags after -- are for a server of this command's own, not for --base-url")
    try:
        depth, least = _run(arguments, serve_flags)
    except (AnalysisError, EvaluationError, MissingExtra, ServerError, OSError) as error:
        print(f"led-sglang: {error}", file=sys.stderr)
        return 2
    print(
        f"recommended depth {depth}: the layers, from the final one down, that hold at least "
        f"{least:.3g} of the final 16 candidates (r_16, no final norm)"
    )
    print(arguments.out)
    return 0


def _run(arguments: argparse.Namespace, serve_flags: Sequence[str]) -> tuple[int, float]:
    """The recommended depth, and the coverage its layers have at least."""
    need("matplotlib")  # before minutes of work, not after
    prompts = _prompts(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with _server(arguments, serve_flags) as url:
        client = ServerClient(url)
        model_path = arguments.model_path or client.model_path()
        answers = _generate(client, prompts, arguments)
    # The server is gone and its memory free before the model is loaded a second time.
    with (arguments.out / TOKENS).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(answer) + "\n" for answer in answers)
    model = load_model(
        model_path, _device(arguments.device), arguments.dtype, arguments.trust_remote_code
    )
    analysis = LayerAnalysis(model, arguments.temperature)
    count = sum(len(answer["output_ids"]) for answer in answers)
    if count == 0:
        raise AnalysisError("the server generated no token")
    with need("tqdm").tqdm(total=count, desc="analysing", unit="token", smoothing=0.1) as bar:
        for answer in answers:
            analysis.add(answer["prompt_ids"], answer["output_ids"])
            bar.update(len(answer["output_ids"]))
    facts = {
        "model": str(model_path),
        "prompts": len(prompts),
        "temperature": arguments.temperature,
        "dtype": arguments.dtype,
    }
    table, threshold = analysis.table(), arguments.coverage_threshold
    depth = write_report(table, arguments.out, threshold, facts)
    return depth, table.least_coverage(threshold)


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """Of the file, or of every task in turn; `--limit` holds for each."""
    if arguments.prompts:
        return read_prompts(arguments.prompts)[: arguments.limit]
    from led_sglang.evaluation.tasks import load_task

    tasks = [load_task(name, limit=arguments.limit) for name in arguments.tasks.split(",")]
    return [task.prompt(item) for task in tasks for item in task.items]


@contextmanager
def _server(arguments: argparse.Namespace, serve_flags: Sequence[str]) -> Iterator[str]:
    """The user's server, or one of our own while the answers are generated."""
    if arguments.base_url:
        yield arguments.base_url
        return
    flags = ["--sampler", "regular", "--model-path", arguments.model_path, *serve_flags]
    if arguments.device:
        flags += ["--device", arguments.device]
    if arguments.trust_remote_code:
        flags.append("--trust-remote-code")
    print("starting the server ...", file=sys.stderr, flush=True)
    with running_server(flags, arguments.out / _SERVER_LOG) as url:
        yield url


def _generate(
    client: ServerClient, prompts: Sequence[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Answers of the engine's own sampler: `prompt_ids` and `output_ids`, in the prompts' order."""
    sampling: dict[str, Any] = {
        "temperature": arguments.temperature,
        "max_new_tokens": arguments.max_new_tokens,
    }
    if client.led_settings() is not None:
        sampling["custom_params"] = {"sampler": "regular"}

    def answer(prompt: str) -> dict[str, Any]:
        ids = client.chat_tokens(prompt)
        return {"prompt_ids": ids, "output_ids": client.generate(ids, sampling)["output_ids"]}

    with ThreadPoolExecutor(arguments.concurrency) as pool:
        running = pool.map(answer, prompts)
        return list(need("tqdm").tqdm(running, total=len(prompts), desc="generating"))


def _device(given: str | None) -> str:
    import torch

    if given:
        return given
    return "cuda" if torch.cuda.is_available() else "cpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="led-sglang analyze",
        description="Entropy and coverage of every layer over a model's own answers, and the "
        "exploration depth they recommend. Flags after -- go to `led-sglang serve`.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model-path", help="a server is started for it, and stopped again")
    which.add_argument("--base-url", help="a running server; its model must be readable here")
    questions = parser.add_mutually_exclusive_group(required=True)
    questions.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text, one prompt a line, or .jsonl with `prompt`, `problem` or `question`",
    )
    questions.add_argument(
        "--tasks", metavar="A,B", help="benchmarks of `led-sglang eval`, such as gsm8k,math500"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--limit",
        type=_positive,
        default=30,
        help="prompts of the file or of each task; %(default)s",
    )
    parser.add_argument("--max-new-tokens", type=_positive, default=8192, help="%(default)s")
    parser.add_argument(
        "--temperature",
        type=_above_zero,
        default=0.6,
        help="of the sampling and of the posteriors; default: %(default)s",
    )
    parser.add_argument("--coverage-threshold", type=_share, default=0.05, help="%(default)s")
    parser.add_argument("--concurrency", type=_positive, default=16, help="%(default)s requests")
    parser.add_argument("--device", help="such as cuda or cpu; default: what is found")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that the model brings, in the server and here",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
