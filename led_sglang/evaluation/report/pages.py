"""One page a problem with the text of all its samples; the report links here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from led_sglang.evaluation.report.results import Results, Row
from led_sglang.evaluation.store import Key, RunStore, write_atomically

# Of a text, this much of its start and of its end is shown; the whole is in the JSONL file.
SHOWN_CHARACTERS = 6000


def page_path(task: str, item: str) -> Path:
    """Where the page of a problem is, below the run directory."""
    return Path("pages") / task / f"{re.sub(r'[^A-Za-z0-9.-]', _code, item)}.html"


def _code(match: re.Match[str]) -> str:
    return f"_{ord(match[0]):x}_"  # distinct ids stay distinct


def item_link(key: Key) -> str:
    """Relative link to a sample."""
    return f"{quote(page_path(key.task, key.item).as_posix())}#{quote(_anchor(key))}"


def _anchor(key: Key) -> str:
    return f"{key.sampler}-{key.temperature:g}-{key.sample}"


def write_pages(store: RunStore, results: Results, css: str) -> None:
    """Write the pages of a run, one problem at a time.

    Raises:
        EvaluationError: the disk is full.
    """
    by_item: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for (task, _, _), items in results.cells.items():
        for item, rows in items.items():
            by_item[task, item] += rows
    for (task, item), rows in by_item.items():
        records = [(row, store.read(row.stored)) for row in rows]
        write_atomically(store.folder / page_path(task, item), _page(task, item, records, css))


def _page(task: str, item: str, records: list[tuple[Row, dict[str, Any]]], css: str) -> str:
    first = records[0][1]
    title = escape(f"{task}: {item}")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<link rel="icon" href="data:,"><title>{title}</title><style>{css}</style></head>',
            f'<body><p><a href="../../report.html">Report</a></p><h1>{title}</h1>',
            f"<pre>{escape(first['problem'])}</pre>",
            f"<p>Expected answer: <b>{escape(first['expected_answer'] or '(tests)')}</b></p>",
            *(_section(row, record) for row, record in records),
            "</body></html>",
        ]
    )


def _section(row: Row, record: Mapping[str, Any]) -> str:
    key = row.stored.key
    facts = [
        row.outcome.replace("_", " "),
        f"{record['num_generated_tokens']:,} tokens",
        f"finish: {record['finish_reason']}",
        f"seed {record['seed']}",
        row.stored.path,
    ]
    thought = record["reasoning_content"]
    return (
        f'<section class=sample id="{escape(_anchor(key), quote=True)}">'
        f"<h2>{escape(key.sampler)}, T = {key.temperature:g}, sample {key.sample}</h2>"
        f"<p class=note>{escape(' · '.join(facts))}</p>"
        f"<p>Read as: <b>{escape(_shortened(str(record['predicted_answer'])))}</b></p>"
        f"<pre>{escape(_shortened(record['generation']))}</pre>"
        + (
            f"<details><summary>thinking</summary><pre>{escape(_shortened(thought))}</pre></details>"
            if thought
            else ""
        )
        + "</section>"
    )


def _shortened(text: str) -> str:
    if len(text) <= 2 * SHOWN_CHARACTERS:
        return text
    left_out = len(text) - 2 * SHOWN_CHARACTERS
    start, end = text[:SHOWN_CHARACTERS], text[-SHOWN_CHARACTERS:]
    return f"{start}\n\n[... {left_out:,} characters are left out here ...]\n\n{end}"
