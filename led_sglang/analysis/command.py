"""`led-sglang analyze`: answers from a server, then statistics of every layer over their tokens."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from led_sglang.analysis import AnalysisError
from led_sglang.analysis.prompts import read_prompts
from led_sglang.common.client import ServerClient
from led_sglang.common.extras import need
from led_sglang.common.flags import Parser, above_zero, share, split_flags, whole_number
from led_sglang.common.paths import writable_folder
from led_sglang.common.server_process import running_server
from led_sglang.common.threads import run_all
from led_sglang.trace.ask import phases_of

if TYPE_CHECKING:
    from led_sglang.analysis.statistics import Recommendation

TOKENS = "tokens.jsonl"
_SERVER_LOG = "server.log"


def analyze(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `analyze`; those behind `--` go to its server.

    Raises:
        CommandError: the input, the server or the model is not fit for it.
    """
    own, serve_flags = split_flags(argv)
    parser = _parser()
    arguments = parser.parse_args(own)
    if serve_flags and arguments.base_url is not None:
        parser.error("flags after -- are for a server of this command's own, not for --base-url")
    print(_run(arguments, serve_flags).sentence)
    print(arguments.out)
    return 0


def _run(arguments: argparse.Namespace, serve_flags: Sequence[str]) -> Recommendation:
    # What can go wrong is found before minutes of work, not after.
    writable_folder(arguments.out, "--out")
    need("matplotlib")
    prompts = _prompts(arguments)
    from led_sglang.analysis.forward import LayerAnalysis, check_model, load_model
    from led_sglang.analysis.report import write_report

    device = _device(arguments.device)
    with _server(arguments, serve_flags) as url:
        client = ServerClient(url)
        led = client.led_settings()
        model_path = arguments.model_path or client.model_path()
        check_model(model_path, arguments.trust_remote_code)
        answers = _generate(client, prompts, arguments, led)
    # The server is gone and its memory free before the model is loaded a second time.
    with (arguments.out / TOKENS).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(answer) + "\n" for answer in answers)
    model = load_model(model_path, device, arguments.dtype, arguments.trust_remote_code)
    analysis = LayerAnalysis(model, arguments.temperature)
    count = sum(len(answer["output_ids"]) for answer in answers)
    if count == 0:
        raise AnalysisError("the server generated no token")
    with need("tqdm").tqdm(total=count, desc="analysing", unit="token", smoothing=0.1) as bar:
        for answer in answers:
            analysis.add(answer["prompt_ids"], answer["output_ids"], answer["thinks"])
            bar.update(len(answer["output_ids"]))
    facts = {
        "model": str(model_path),
        "prompts": len(prompts),
        "prompt_set": arguments.tasks or arguments.prompts.name,
        "temperature": arguments.temperature,
        "dtype": arguments.dtype,
    }
    tables, threshold = analysis.tables(), arguments.coverage_threshold
    return write_report(tables, arguments.out, threshold, facts, log=arguments.log)


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
    if arguments.base_url is not None:
        yield arguments.base_url
        return
    flags = ["--sampler", "regular", "--model-path", arguments.model_path, *serve_flags]
    if arguments.device:
        flags += ["--device", arguments.device]
    if arguments.trust_remote_code:
        flags.append("--trust-remote-code")
    with running_server(flags, arguments.out / _SERVER_LOG) as url:
        yield url


def _generate(
    client: ServerClient,
    prompts: Sequence[str],
    arguments: argparse.Namespace,
    led: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Answers of the engine's own sampler, in the prompts' order.

    Each has `prompt_ids`, `output_ids`, and `thinks`, which of the latter are of the thought: None
    where the server, of which `led` are LED's settings, does not know the delimiters.
    """
    sampling: dict[str, Any] = {"temperature": arguments.temperature}
    context = client.context_length()
    if led is not None:
        sampling["custom_params"] = {"sampler": "regular"}

    def answer(prompt: str) -> dict[str, Any]:
        ids = client.chat_tokens(prompt)
        room = arguments.max_new_tokens if context is None else max(context - len(ids), 1)
        limit = {"max_new_tokens": min(arguments.max_new_tokens, room)}
        output = client.generate(ids, sampling | limit)["output_ids"]
        thinks = None
        if led is not None and led["think_start"] and led["think_end"]:
            thinks = [phase == "think" for phase in phases_of(client, led, ids, output)]
        return {"prompt_ids": ids, "output_ids": output, "thinks": thinks}

    with need("tqdm").tqdm(total=len(prompts), desc="generating") as bar:

        def progress(ended: int) -> None:
            if ended > bar.n:
                bar.update(ended - bar.n)
            elif sys.stderr.isatty():  # the time goes on
                bar.refresh()

        return run_all(answer, prompts, arguments.concurrency, progress)


def _device(given: str | None) -> str:
    """The device of the analysis, which is there."""
    import torch

    count = torch.cuda.device_count()
    if given is None:
        return "cuda" if count else "cpu"
    try:
        device = torch.device(given)
    except RuntimeError:
        raise AnalysisError(f"--device {given} is none of torch's: write cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise AnalysisError(f"--device {given} was asked for, and {count} CUDA devices are here")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder")
    parser.add_argument(
        "--limit", type=whole_number, default=30, help="prompts of the file or of each task"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole_number,
        default=8192,
        help="of each answer, at most; never more than the context leaves",
    )
    parser.add_argument(
        "--temperature", type=above_zero, default=0.6, help="of the sampling and of the posteriors"
    )
    parser.add_argument(
        "--coverage-threshold",
        type=share,
        default=0.05,
        help="coverage that is not negligible, beyond that of two random sets",
    )
    parser.add_argument("--log", action="store_true", help="logarithmic y axes in the figures")
    parser.add_argument("--concurrency", type=whole_number, default=16, help="requests at once")
    parser.add_argument("--device", help="such as cuda or cpu; default: what is found")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the analysis; auto: the checkpoint's",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that the model brings, in the server and here",
    )
    return parser
