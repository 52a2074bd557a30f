"""The head of a report: what was measured, when, with which code, and on which machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from led_sglang.evaluation.report.results import Results
from led_sglang.evaluation.server import is_sglang

Facts = list[tuple[str, str]]


def title(settings: Mapping[str, Any]) -> str:
    """The model's name, without its folder."""
    model = settings["server"].get("model_path") or settings["model"]
    return PurePath(str(model)).name


def facts(results: Results) -> Facts:
    """Names and values, those that are known."""
    grid, server = results.grid, results.settings["server"]
    led = server.get("led")
    top = f"top_p {grid.top_p:g}, top_k {grid.top_k}"
    seeds = f"seed {grid.seed}" + (" + sample" if grid.seed_per_sample else "")
    found = [
        ("date", _dates(results)),
        ("duration", duration(results)),
        ("samples", f"{results.finished:,} of {results.expected:,}"),
        ("samplers", ", ".join(_samplers(results))),
        ("temperatures", ", ".join(f"{t:g}" for t in grid.temperatures)),
        ("sampling", f"n = {grid.n}, {top}, {seeds}, at most {grid.max_tokens:,} tokens"),
        ("graded text", "answer part" if grid.scope == "answer" else "whole completion"),
        ("grader", "; ".join(results.graders)),
        ("concurrency", f"{_list(results.concurrency)} requests at a time"),
        ("model", str(server.get("model_path") or results.settings["model"])),
        ("server", _server(server)),
        ("LED", f"depth {led['depth']}, candidates {led['candidates']}, layers {led['layers']}"
                if led else "not enabled" if is_sglang(server) else ""),
        ("hardware", _of_sessions(results, "server", "hardware")),
        ("server's command", _of_sessions(results, "server", "command")),
        ("versions", _of_sessions(results, "versions")),
        ("commit", _of_sessions(results, "commit")),
        ("command", _of_sessions(results, "command")),
        ("client", _of_sessions(results, "client")),
    ]  # fmt: skip
    return [(name, value) for name, value in found if value]


def duration(results: Results) -> str:
    """Time of generation, over all starts, and tokens per second; empty where it is not known.

    A start lasts until its last sample was finished: what came after it is not generation.
    """
    sessions = results.by_session()
    if sessions is None:
        return ""
    seconds = sum(
        max(row.finished or 0.0 for row in rows)
        - datetime.fromisoformat(results.sessions[index]["started"]).timestamp()
        for index, rows in sessions.items()
    )
    tokens = sum(row.tokens for rows in sessions.values() for row in rows)
    if not seconds:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    shown = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (hours + minutes > 0)
    return f"{' '.join([*shown, f'{left} s'])} of generation, {tokens / seconds:,.0f} tokens/s"


def _dates(results: Results) -> str:
    starts = [session["started"] for session in results.sessions]
    if not starts:
        return ""
    first = datetime.fromisoformat(starts[0]).astimezone(UTC)
    times = f", started {len(starts)} times" if len(starts) > 1 else ""
    return f"{first:%Y-%m-%d %H:%M} UTC{times}"


def _samplers(results: Results) -> list[str]:
    labels = [sampler.label for sampler in results.grid.samplers]
    return [f"{labels[0]} (baseline)", *labels[1:]] if len(labels) > 1 else labels


def _server(server: Mapping[str, Any]) -> str:
    if not is_sglang(server):
        return "of another kind, or behind a gateway that does not describe it"
    parts = [f"SGLang {server['version']}"] if server.get("version") else []
    parts += [str(server["dtype"])] if server.get("dtype") else []
    parts += [f"tensor parallel {server['tp_size']}"] if server.get("tp_size") else []
    parts += ["deterministic"] if server.get("enable_deterministic_inference") else []
    return ", ".join(parts)


def _of_sessions(results: Results, *path: str) -> str:
    """What the starts say, each different thing once."""
    found: dict[str, None] = {}
    for session in results.sessions:
        value: Any = session
        for key in path:
            value = (value or {}).get(key)
        if value:
            found[str(value)] = None
    return "; ".join(found)


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
