"""`led-sglang trace`: ask a running server for one answer and write it as an HTML page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

from led_sglang.common.client import ServerClient, ServerError
from led_sglang.common.extras import require
from led_sglang.common.flags import Parser, from_zero, share, whole_number
from led_sglang.common.paths import writable_file
from led_sglang.common.terminal import FAILED
from led_sglang.common.threads import start
from led_sglang.common.waiting import Waiting
from led_sglang.trace.ask import run_trace
from led_sglang.trace.page import write_page
from led_sglang.trace.records import Trace, first_divergence

# A server that is too busy to count is not asked for long.
_COUNT_TIMEOUT_S = 3.0
_LOOK_EVERY_S = 0.5
_OUT = Path("trace.html")
_TEMPERATURE, _MAX_NEW_TOKENS = 0.6, 1024


def trace(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `trace`.

    Raises:
        CommandError: the server or its answer is not fit for a trace, or the page has no place.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.from_run is not None:
        return _trace_from_run(parser, arguments)
    if arguments.sample is not None or arguments.sampler is not None:
        parser.error("--sample and --sampler go with --from-run; --compare names other samplers")
    temperature = arguments.temperature
    sampling: dict[str, Any] = {
        "temperature": _TEMPERATURE if temperature is None else temperature,
        "max_new_tokens": arguments.max_new_tokens or _MAX_NEW_TOKENS,
        "top_p": arguments.top_p,
        "sampling_seed": arguments.seed,
    }
    sampling = {key: value for key, value in sampling.items() if value is not None}
    client = ServerClient(arguments.base_url)
    out = writable_file(arguments.out or _OUT, "--out")  # before minutes of generation
    traces = []
    for sampler in arguments.compare or ("led",):
        ask = partial(
            run_trace,
            client,
            arguments.prompt,
            sampler=sampler,
            sampling=sampling,
            led=arguments.led or {},
        )
        run = generated(ask, client, sampler)
        print(f"{sampler}: {summary(run)}", file=sys.stderr, flush=True)
        traces.append(run)
    path = write_page(traces, out)
    if len(traces) == 2:
        split = first_divergence(*traces)
        print("the two runs are the same" if split is None else f"first difference: token {split}")
    print(path)
    return 0


def _trace_from_run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """The trace of a recorded sample; 2 where the server does not repeat it."""
    require("eval", "math_verify", "yaml")
    from led_sglang.evaluation.store import trace_path
    from led_sglang.trace.from_run import ask_again, check_server, find_sample

    if arguments.sample is None:
        parser.error("--from-run needs --sample TASK/ID/SAMPLE")
    for name in ("compare", "led", "seed", "top_p", "max_new_tokens"):
        if getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag} cannot be given with --from-run: the sample has its own")
    sample = find_sample(
        arguments.from_run, arguments.sample, arguments.sampler, arguments.temperature
    )
    client = ServerClient(arguments.base_url)
    check_server(sample, client)
    out = writable_file(arguments.out or arguments.from_run / trace_path(sample.key), "--out")
    differs: list[int | None] = []

    def ask() -> Trace:
        run, place = ask_again(sample, client)
        differs.append(place)
        return run

    run = generated(ask, client, sample.key.sampler)
    print(f"{sample.key.sampler}: {summary(run)}", file=sys.stderr, flush=True)
    print(write_page([run], out))
    if differs == [None]:
        print("the tokens are those of the recorded sample", file=sys.stderr)
        return 0
    print(
        f"led-sglang: the answer is not the recorded one from character {differs[0]} on, and the "
        "page shows the new one: other batches change the last bits of the logits, and samplers "
        "other than LED use the seed only with --enable-deterministic-inference",
        file=sys.stderr,
    )
    return FAILED


def generated(ask: Callable[[], Trace], client: ServerClient, sampler: str) -> Trace:
    """The trace that `ask` gets, with the time and LED's tokens shown until it is there.

    SGLang sends an answer with its trace when it is whole (docs/trace.md says why no stream is
    asked for), so the tokens are those that LED has drawn on this server meanwhile.
    """
    watch = ServerClient(client.base_url, timeout_s=_COUNT_TIMEOUT_S)
    before = client.led_totals()
    answer = start(ask)
    with Waiting(f"{sampler}: generating") as waiting:
        while not wait([answer], timeout=_LOOK_EVERY_S).done:
            if waiting.due:
                waiting.show(_count(watch, before))
    return answer.result()


def _count(watch: ServerClient, before: Mapping[str, Any] | None) -> str:
    try:
        now = watch.led_totals()
    except ServerError:  # the request itself says what is wrong
        return ""
    if now is None or before is None:
        return ""
    tokens = now["think_tokens"] - before["think_tokens"]
    return f"{tokens} tokens of thought on this server meanwhile" if tokens else ""


def summary(run: Trace) -> str:
    """One line of counts."""
    text = f"{len(run.tokens)} tokens"
    if not run.traced:
        return text
    steps = [token.step for token in run.tokens if token.step]
    return f"{text}, {len(steps)} thinking, {sum(s.explored for s in steps)} explored"


def _parser() -> Parser:
    parser = Parser(
        prog="led-sglang trace",
        description="Write one answer of a running server as an HTML page that shows, token by "
        "token, what LED saw and chose.",
    )
    parser.add_argument("--base-url", default="http://127.0.0.1:30000", help="of a running server")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", type=_unicode, help="one user turn")
    what.add_argument(
        "--prompt-file", dest="prompt", type=_text, metavar="FILE", help="a file that holds it"
    )
    what.add_argument("--from-run", type=Path, metavar="DIR", help="a run of `led-sglang eval`")
    parser.add_argument(
        "--compare",
        type=_samplers,
        metavar="A,B",
        help="one sampler or two side by side, such as regular,led (default: led)",
    )
    parser.add_argument("--sample", metavar="TASK/ID/SAMPLE", help="of --from-run")
    parser.add_argument("--sampler", metavar="LABEL", help="of --from-run (default: led)")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"the page (default: {_OUT}; with --from-run where the report links it)",
    )
    parser.add_argument(
        "--temperature", type=from_zero, help=f"of the sampling (default: {_TEMPERATURE})"
    )
    parser.add_argument("--top-p", type=share, help="of samplers other than led (default: 1)")
    parser.add_argument(
        "--seed",
        type=int,
        help="of led; others use it only if the server does (default: another each time)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole_number,
        help=f"of each answer, at most (default: {_MAX_NEW_TOKENS})",
    )
    parser.add_argument(
        "--led",
        type=_object,
        metavar="JSON",
        help="keys of custom_params.led, such as '{\"depth\": 4}'",
    )
    return parser


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("the text is not UTF-8") from None
    return text


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error}") from None


def _samplers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(names) not in (1, 2) or not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not one sampler or two, such as regular,led")
    return names


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
