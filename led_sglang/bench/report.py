"""The report of a benchmark: bench.json, bench.md, bench.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from led_sglang.bench.numbers import Row
from led_sglang.bench.plan import Plan

_SCATTER_TO_WARN = 0.10
_COLUMNS = (
    *("batch", "sampler", "tok/s", "baseline tok/s", "ratio (min .. max)", "us added per step"),
    *("ms per token p50", "p99", "explored", "explorers per step", "rows projected per step"),
    "peak MB (baseline)",
)


def write_report(
    folder: Path,
    plan: Plan,
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    notes: Sequence[str],
    more: str = "",
) -> None:
    """Write the report of the finished pairs; an earlier one is replaced.

    Args:
        machine: from `machine.machine`.
        notes: sentences about what was not.
        more: Markdown below the table.
    """
    content = {
        "machine": dict(machine),
        "settings": plan.settings(),
        "rows": [asdict(row) for row in rows],
    }
    notes = [*notes, *scattered(rows)]
    content["notes"] = notes
    (folder / "bench.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(plan, machine, rows, notes) + more)
    if rows:
        from led_sglang.bench.figure import draw

        draw(rows, plan, machine, folder / "bench.png")


def scattered(rows: Sequence[Row]) -> list[str]:
    """A sentence for each row whose pairs differ too much for its median to be trusted."""
    return [
        f"batch {row.batch_size}, {row.arm}: the pairs scatter by {row.scatter:.0%} "
        f"({row.ratio_low:.3f} .. {row.ratio_high:.3f}), so the machine was not quiet: end what "
        "else runs on it, or raise --repeats and --output-len"
        for row in rows
        if row.scatter > _SCATTER_TO_WARN
    ]


def in_words(rows: Sequence[Row], plan: Plan) -> list[str]:
    """The table as sentences, one a row."""
    lines = []
    for row in rows:
        pairs = f"{row.pairs} pair" + "s" * (row.pairs > 1)
        line = (
            f"batch {row.batch_size}: {row.arm} makes {row.tokens_per_s:,.0f} tokens/s where "
            f"{plan.baseline.name} makes {row.baseline_tokens_per_s:,.0f}, {row.ratio:.1%} of it "
            f"({row.ratio_low:.1%} .. {row.ratio_high:.1%} over {pairs}), "
            f"{row.added_us_per_step:+,.0f} us a step"
        )
        if row.explore_rate is not None:
            line += f", with {row.explore_rate:.1%} of its tokens explored"
        lines.append(line)
    return lines


def markdown(
    plan: Plan, machine: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]
) -> str:
    """Header, table, and what was left out."""
    prompts = "prompts of a file" if plan.prompts else f"{plan.context} random ids a prompt"
    lines = [
        "# Throughput",
        "",
        f"* {plan.facts.get('model', 'model')}: {prompts}, {plan.output_len} tokens a request, "
        f"temperature {plan.temperature:g}, baseline {plan.baseline.name}",
        *(
            f"* {key.replace('_', ' ')}: {f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in machine.items()
        ),
        "* tokens per second, and the rest, of the time in which all requests decode; medians of "
        f"{plan.repeats} pairs, order alternating",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
        *(table_line(row) for row in rows),
        "",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def table_line(row: Row) -> str:
    """One row of the table."""
    cells = (
        str(row.batch_size),
        row.arm,
        f"{row.tokens_per_s:.1f}",
        f"{row.baseline_tokens_per_s:.1f}",
        f"{row.ratio:.3f} ({row.ratio_low:.3f} .. {row.ratio_high:.3f})",
        f"{row.added_us_per_step:.0f}",
        f"{row.token_ms_p50:.2f}",
        f"{row.token_ms_p99:.2f}",
        "" if row.explore_rate is None else f"{row.explore_rate:.1%}",
        _optional(row.explorers_per_step, ".2f"),
        _optional(row.projected_rows_per_step, ".2f"),
        f"{_optional(row.peak_memory_mb, '.0f')} ({_optional(row.baseline_peak_memory_mb, '.0f')})",
    )
    return "| " + " | ".join(cells) + " |"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
