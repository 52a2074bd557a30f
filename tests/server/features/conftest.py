"""One server for all features that fit together: small chunks, a small KV pool, every parser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server, serve
from oracle import Oracle

# The pool holds a handful of requests.
FLAGS = (
    *("--dtype", "float32"),
    *("--chunked-prefill-size", "64", "--enable-mixed-chunk"),
    *("--max-total-tokens", "3072", "--schedule-conservativeness", "0.1"),
    *("--reasoning-parser", "qwen3", "--tool-call-parser", "qwen25"),
    *("--enable-custom-logit-processor", "--grammar-backend", "xgrammar"),
)


@pytest.fixture(scope="package")
def server(model_path: Path) -> Iterator[Server]:
    with serve(model_path, *FLAGS) as running:
        yield running


@pytest.fixture(scope="package")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)
