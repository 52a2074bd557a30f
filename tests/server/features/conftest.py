"""One server for all features that fit together: small chunks, a small KV pool, every parser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs.control import EAGER, GRAPHS
from graphs.served import GraphServer, graph_flags, serve_graphs
from harness import Server, free_port
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
    *graph_flags(decode=(1, 4, 8, 16), prefill=(8, 32, 80)),
)


@pytest.fixture(scope="package")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="package")
def graph_server(
    model_path: Path, grpc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GraphServer]:
    flags = (*FLAGS, "--grpc-port", str(grpc_port))
    with serve_graphs(model_path, tmp_path_factory.mktemp("graphs"), *flags) as running:
        yield running


@pytest.fixture(scope="package")
def server(graph_server: GraphServer) -> Server:
    """The same, eager but for tests that ask for `graph_mode`."""
    return graph_server.served


@pytest.fixture(params=[EAGER, GRAPHS])
def graph_mode(request: pytest.FixtureRequest, graph_server: GraphServer) -> Iterator[str]:
    """Runs a test twice, the second time out of graphs."""
    graph_server.use(request.param)
    yield request.param
    graph_server.use(EAGER)
    if request.param == GRAPHS:
        graph_server.check_replayed("DECODE")


@pytest.fixture(scope="package")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)


@pytest.fixture(scope="package")
def regular() -> dict[str, str]:
    return {"sampler": "regular"}
