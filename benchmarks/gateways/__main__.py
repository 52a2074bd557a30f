"""Who answers behind each gateway, for each endpoint and each way of choosing a sampler.

    python -m benchmarks.gateways --out build/gateways --smg PATH/bin/smg --smg-names PATH/bin/smg \
        --sglang-router PATH/bin/python --litellm PATH/bin/litellm --nginx /usr/sbin/nginx

Starts two servers with the bundled model, or asks those that --workers names, puts each gateway in
front of them and sends every request once, streamed and not, for `regular` and for `led`.
`--server-flags "--sampler regular --enable-samplers led"` sets the servers' default. Gateways are
installed in environments of their own: some of them pin what SGLang needs in other versions. Only
those that a flag names are tried; `direct`, the first server itself, always is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path

import requests

from benchmarks.gateways.ask import CHOICES, ENDPOINTS, Answer, ask
from benchmarks.gateways.launch import GATEWAYS, running
from led_sglang.common.address import first_state
from led_sglang.common.server_process import running_server

NAME = "model"
SAMPLERS = ("regular", "led")
_FLAGS = (
    "--device",
    "cpu",
    "--served-model-name",
    NAME,
    "--random-seed",
    "1",
    "--dtype",
    "float32",
)


@contextmanager
def two_servers(folder: Path, flags: Sequence[str]) -> Iterator[list[str]]:
    """Started together: each imports SGLang for half a minute."""
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(number: int) -> str:
            server = running_server([*_FLAGS, *flags], folder / f"server-{number}.log")
            return stack.enter_context(server)

        yield list(pool.map(start, range(2)))


def sweep(gateway: str, url: str, workers: Sequence[str]) -> Iterator[Answer]:
    """Every request once, each sampler in each way, and one that chooses nothing."""
    info = requests.get(f"{workers[0]}/server_info", timeout=60).json()
    default = first_state(info)["led"]["settings"]["sampler"]
    asked = [("nothing", default), *product(CHOICES, SAMPLERS)]
    for endpoint, stream, (way, sampler) in product(ENDPOINTS, (False, True), asked):
        yield ask(gateway, url, workers, endpoint, NAME, way, sampler, stream=stream)


def table(answers: Sequence[Answer]) -> str:
    """Rows of Markdown: who answered, by gateway and endpoint, for each sampler and way."""
    columns = list(product(SAMPLERS, CHOICES))
    names = [f"`{sampler}` by {way}" for sampler, way in columns]
    lines = [f"| gateway | endpoint | {' | '.join(names)} | seen by the client |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for gateway, endpoint in product(dict.fromkeys(a.gateway for a in answers), ENDPOINTS):
        found = [a for a in answers if (a.gateway, a.endpoint) == (gateway, endpoint)]
        cells = [
            _together([_outcome(a) for a in found if (a.asked, a.way) == column])
            for column in columns
        ]
        seen = _seen([a for a in found if a.truth is not None])
        lines.append(f"| {gateway} | `{endpoint}` | {' | '.join(cells)} | {seen} |")
    return "\n".join(lines)


def _outcome(answer: Answer) -> str:
    if answer.truth is None:
        return f"refused, HTTP {answer.status}" if answer.status else "no answer"
    return answer.truth if answer.truth == answer.asked else f"**{answer.truth}**"


def _seen(answers: Sequence[Answer]) -> str:
    """Where the client reads who answered: what is right in all of them, the default's included."""
    ways: dict[str, Callable[[Answer], bool]] = {
        "header": lambda a: a.header == a.truth,
        "model": lambda a: a.model == f"{NAME}:{a.truth}",
        "metadata": lambda a: a.reported == a.truth,
    }
    if not answers:
        return ""
    found = []
    for name, tells in ways.items():
        whole, streamed = (
            all(tells(a) for a in answers if a.streamed == stream) for stream in (False, True)
        )
        if whole:
            found.append(name if streamed else f"{name} unless streamed")
    return ", ".join(found) or "nothing"


def _together(both: Sequence[str]) -> str:
    """One word where the whole answer and the stream agree."""
    whole, streamed = both
    return whole if whole == streamed else f"{whole}; streamed: {streamed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results and logs")
    parser.add_argument("--workers", nargs=2, help="base URLs of two servers that run already")
    parser.add_argument("--server-flags", default="", help="further flags of the servers")
    for gateway in GATEWAYS:
        parser.add_argument(f"--{gateway}", help="the program that runs it")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    answers: list[Answer] = []
    with ExitStack() as stack:
        workers = given.workers or stack.enter_context(
            two_servers(given.out, given.server_flags.split())
        )
        answers += sweep("direct", workers[0], workers[:1])
        for gateway in GATEWAYS:
            program = getattr(given, gateway.replace("-", "_"))
            if program is None:
                continue
            try:
                with running(gateway, program, workers, NAME, given.out) as url:
                    answers += sweep(gateway, url, workers)
            except RuntimeError as error:
                print(error, file=sys.stderr)
    lines = [json.dumps(asdict(answer)) + "\n" for answer in answers]
    (given.out / "answers.jsonl").write_text("".join(lines))
    print(table(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
