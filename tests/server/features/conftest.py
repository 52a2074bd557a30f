"""One server for all features that fit together: small chunks, a small KV pool, every parser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server, free_port, serve
from oracle import Oracle

# The pool holds a handful of requests: batches of ten are retracted over and over.
FLAGS = (
    *("--dtype", "float32"),
    *("--chunked-prefill-size", "64", "--enable-mixed-chunk"),
    *("--max-total-tokens", "2048", "--schedule-conservativeness", "0.1"),
    *("--reasoning-parser", "qwen3", "--tool-call-parser", "qwen25"),
    *("--enable-custom-logit-processor", "--grammar-backend", "xgrammar"),
    # The random model would write spaces for ever.
    "--constrained-json-disable-any-whitespace",
    *("--led-aliases", "ablations"),
)


@pytest.fixture(scope="package")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="package")
def server(model_path: Path, grpc_port: int) -> Iterator[Server]:
    with serve(model_path, *FLAGS, "--grpc-port", str(grpc_port)) as running:
        yield running


@pytest.fixture(scope="package")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)


@pytest.fixture(scope="package")
def regular() -> dict[str, str]:
    return {"sampler": "regular"}
