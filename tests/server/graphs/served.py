"""Servers with recorded graphs, for tests: one server answers eagerly and from its graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import graph_plugin
from close_answers import assert_close
from extra_plugin import plugin_environment
from harness import Server, serve

from graphs import control
from graphs.control import EAGER, GRAPHS


def prompt_sizes(largest: int) -> tuple[int, ...]:
    """Buckets for every number of prompt tokens: more than twice as large, SGLang takes none."""
    sizes = [2]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1] + 2, largest))
    return tuple(sizes)


class GraphServer:
    """A server whose graphs are switched.

    Attributes:
        served: the server itself.
        folder: what passes between the server and the test.
    """

    def __init__(self, served: Server, folder: Path) -> None:
        self.served, self.folder = served, folder

    def use(self, mode: str) -> None:
        """Answer eagerly, from graphs, or from graphs with a fault, and out of an empty cache."""
        control.set_mode(self.folder, mode)
        assert self.served.post("/flush_cache?timeout=30", {}).status_code == 200

    def forwards(self, kind: str, mode: str = GRAPHS) -> list[dict[str, Any]]:
        """The forwards of a kind (DECODE, EXTEND, ...) that this mode was asked of."""
        return forwards(self.folder, kind, mode)

    def both(self, ask: Callable[[Server], Any]) -> tuple[Any, Any]:
        """Answers of the same requests, eagerly and from graphs."""
        answers = []
        for mode in (EAGER, GRAPHS):
            self.use(mode)
            answers.append(ask(self.served))
        return answers[0], answers[1]

    def check_replayed(self, *kinds: str, share: float = 1.0) -> None:
        """See `check_replayed`."""
        check_replayed(self.folder, *kinds, share=share)


def forwards(folder: Path, kind: str, mode: str) -> list[dict[str, Any]]:
    """The forwards of a kind (DECODE, EXTEND, ...) that this mode was asked of."""
    lines = control.read_log(folder)
    return [line for line in lines if line["asked"] == mode and line["mode"] == kind]


def check_replayed(folder: Path, *kinds: str, share: float = 1.0) -> None:
    """Forwards of these kinds were replays in which no layer's Python ran.

    Eager ones ran it, so that the count counts.

    Args:
        folder: what passes between a server and its test.
        kinds: of forwards.
        share: of the forwards that must have been replays, where SGLang runs some eagerly.
    """
    for kind in kinds:
        lines, eager = forwards(folder, kind, GRAPHS), forwards(folder, kind, EAGER)
        replayed = [line for line in lines if line["graph"]]
        unlike = [line for line in lines if not line["graph"]]
        print(f"{kind}: {len(replayed)} of {len(lines)} forwards were replays")
        assert lines, kind
        assert len(replayed) >= share * len(lines), unlike[:3]
        assert all(line["replays"] and not line["layer_runs"] for line in replayed)
        assert all(line["layer_runs"] and not line["replays"] for line in [*eager, *unlike])
        assert eager, kind


def graph_environment(folder: Path, *plugins: Path) -> dict[str, str]:
    """Environment of a server with recorded graphs, which are off until a test asks for them.

    Args:
        folder: an empty one, for what passes between the server and the test.
        plugins: further modules with `register()`.
    """
    control.set_mode(folder, EAGER)
    environment = plugin_environment(folder, Path(graph_plugin.__file__), *plugins)
    return environment | {control.FOLDER: str(folder)}


def graph_flags(decode: Sequence[int], prefill: Sequence[int]) -> tuple[str, ...]:
    """Flags of a server with graphs of these batch sizes and of these numbers of prompt tokens."""
    flags = ("--cuda-graph-backend-prefill", "breakable", "--cuda-graph-bs-prefill")
    return (*flags, *map(str, prefill), "--cuda-graph-bs-decode", *map(str, decode))


@contextmanager
def serve_graphs(
    model: Path, folder: Path, *flags: str, plugins: tuple[Path, ...] = (), **how: Any
) -> Iterator[GraphServer]:
    """A server with recorded graphs, which are off until a test asks for them.

    Args:
        model: its folder.
        folder: an empty one, for what passes between the server and the test.
        flags: of the server, `graph_flags` among them.
        plugins: further modules with `register()`.
        how: as for `harness.serve`.
    """
    how["env"] = graph_environment(folder, *plugins) | how.get("env", {})
    with serve(model, *flags, **how) as running:
        yield GraphServer(running, folder)


# Of no concern: names and times.
UNLIKE = {"id", "e2e_latency"}


def assert_same(ours: Any, theirs: Any) -> None:
    """The same answers: a bucket's matrix products have another shape than a batch's."""
    assert_close(ours, theirs, relative=1e-3, absolute=1e-4, without=UNLIKE)
