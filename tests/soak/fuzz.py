"""Fuzz every endpoint: each body is answered, served or refused with HTTP 400.

python tests/soak/fuzz.py --bodies 10000
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "server"))

import requests
from bodies import monsters
from bodies import requests as bodies
from harness import Server, serve, tail
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from led_sglang.methods.registry import sampler_names
from led_sglang.models.random_qwen3 import write_random_qwen3

# So many are in flight at once, and a good request among them that must be answered rightly.
BURST = 12
TIMEOUT_S = 120.0
PROGRESS_EVERY = 500
# Custom logit processors let foreign keys through the front end: the wider door.
FLAGS = (
    *("--dtype", "float32", "--enable-custom-logit-processor", "--grammar-backend", "xgrammar"),
    # /v1/responses knows the served name alone
    *("--served-model-name", "m"),
    *("--enable-samplers", ",".join(sampler_names())),
)


def known_answer(server: Server) -> list[int]:
    """Tokens of a fixed LED request."""
    led = {"gate": "always", "depth": 8, "candidates": 8}
    sampling = {"temperature": 0.8, "sampling_seed": 3, "max_new_tokens": 8, "ignore_eos": True}
    answer = server.generate([*range(60, 90), 259], {"led": led}, **sampling)
    tokens: list[int] = answer["output_ids"]
    return tokens


def send(server: Server, case: tuple[str, str]) -> tuple[int, str]:
    """Status and text of the answer; a stream is read to its end."""
    endpoint, body = case
    response = requests.post(
        server.url + endpoint,
        # A lone surrogate is no Unicode: it goes out as the bytes a careless client would send.
        data=body.encode("utf-8", "surrogatepass"),
        headers={"content-type": "application/json"},
        timeout=TIMEOUT_S,
    )
    return response.status_code, response.text


def fuzz(server: Server, count: int) -> Counter[int]:
    """Send every monster once and about `count` drawn bodies in bursts; count the statuses.

    Raises:
        AssertionError: a body was answered with neither 200 nor 400, or a good request among
            them got other tokens than before; hypothesis shrinks and prints the bodies.
    """
    expected = known_answer(server)
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=-(-count // BURST),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(bodies(), min_size=BURST, max_size=BURST))
    def burst(cases: Sequence[tuple[str, str]]) -> None:
        before = sum(statuses.values())
        statuses.update(answered(server, cases, expected))
        if sum(statuses.values()) // PROGRESS_EVERY > before // PROGRESS_EVERY:
            print(dict(statuses), file=sys.stderr)

    for cases in zip(*[monsters()] * 6, strict=True):
        statuses.update(answered(server, cases, expected))
    burst()
    assert known_answer(server) == expected
    return statuses


def answered(
    server: Server, cases: Sequence[tuple[str, str]], expected: Sequence[int]
) -> list[int]:
    """Send bodies at once; their statuses, if all of them and a good request's tokens are right."""
    with ThreadPoolExecutor(len(cases) + 1) as pool:
        running = pool.submit(known_answer, server)
        answers = list(pool.map(lambda case: send(server, case), cases))
    for (endpoint, body), (status, text) in zip(cases, answers, strict=True):
        assert status in (200, 400), f"{status} from {endpoint} for {body[:400]}: {text[:400]}"
        assert status == 200 or text, "a refusal without a word"
        # SGLang opens a stream of /generate before it checks the request: what failed is inside.
        inside = re.search(r'"(?:status_)?code": ?(5\d\d)', text)
        assert not inside, f"{inside[1]} in the stream of {endpoint} for {body[:400]}: {text[:400]}"
    assert running.result() == expected
    return [status for status, _ in answers]


def main(argv: list[str] | None = None) -> int:
    """Start a server, fuzz it, print the statuses."""
    parser = argparse.ArgumentParser(prog="python tests/soak/fuzz.py", description=__doc__)
    parser.add_argument("--bodies", type=int, default=10_000)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="led-fuzz-") as folder:
        model = write_random_qwen3(Path(folder) / "model", seed=1, dtype="float32")
        with serve(model, *FLAGS) as server:
            try:
                statuses = fuzz(server, options.bodies)
            except AssertionError:
                print(tail(server.log))
                raise
    print(f"{sum(statuses.values())} bodies: {dict(statuses)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
