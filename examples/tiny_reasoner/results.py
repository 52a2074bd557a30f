"""RESULTS.md, from the folders that `reproduce.py` has filled."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from led_sglang.evaluation.report import tables
from led_sglang.evaluation.report.tables import Table, number
from led_sglang.evaluation.store import RunStore
from tiny_reasoner import figures
from tiny_reasoner.explored_tables import Pairs, answers, choices, places
from tiny_reasoner.figures import LABELS
from tiny_reasoner.planned import planned
from tiny_reasoner.thoughts import share_of_mistakes

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """Where the runs are, and what was measured outside them.

    Attributes:
        folder: of the runs `before`, `after`, `ablations`, `layers-before`, `layers-after`.
        measured: `measure.measure` of each checkpoint.
        unsure: per checkpoint, temperature and final norm, `unsure.unsure_steps`.
        pairs: samples of `regular` and LED by temperature, `explored.read_pairs`.
        level: name of the problems' level.
        minutes: wall clock of all starts of the reproduction.
        cores: that it could use.
    """

    folder: Path
    measured: Mapping[str, Mapping[str, Any]]
    unsure: Mapping[tuple[str, float, bool], Mapping[str, float]]
    pairs: Pairs
    level: str
    minutes: float
    cores: int


def write_results(results: Reproduction, out: Path, reading: Path) -> Path:
    """Write `RESULTS.md` and `plots/`.

    Args:
        out: folder.
        reading: what people made of an earlier run, put at the end as it stands.

    Returns:
        The path of RESULTS.md.
    """
    runs = {
        name: json.loads((results.folder / name / "metrics.json").read_text(encoding="utf-8"))
        for name in ("before", "after", "ablations")
    }
    layers = {label: read_layers(results.folder / f"layers-{label}") for label in LABELS}
    figures.draw({label: runs[label] for label in LABELS}, layers, out / "plots")
    parts: list[str | Table] = [
        *_head(results, runs),
        *([planned(runs["after"]["paired"])] if results.level == "budget" else []),
        *_verdicts(runs),
        _collapse(results.measured),
        _accuracy({label: runs[label] for label in LABELS}),
        "![Accuracy against temperature](plots/accuracy.png)",
        "pass@n of the first two samplers, before and after RL:",
        *(f"![pass@n, {LABELS[label]}](plots/pass_at_n-{label}.png)" for label in LABELS),
        *_titled(tables.in_short(runs["after"]), "Differences to regular, after RL"),
        *_titled(tables.in_short(runs["before"]), "Differences to regular, before RL"),
        *_titled(tables.solved(runs["after"]), "Cover@tau, after RL"),
        *_titled(tables.solved(runs["before"]), "Cover@tau, before RL"),
        *_titled(tables.alpha(runs["after"]), "Accuracy-temperature slope alpha, after RL"),
        *_titled(tables.alpha(runs["before"]), "Accuracy-temperature slope alpha, before RL"),
        _one_task(
            replace(
                tables.accuracy(runs["ablations"]),
                title="Ablations of LED and other methods, after RL",
            )
        ),
        *_titled(tables.in_short(runs["ablations"]), "Differences to LED as it is"),
        "# Why",
        _by_layer(layers),
        "![Entropy and coverage by layer](plots/layers.png)",
        _unsure(results.unsure),
        places(results.pairs),
        choices(results.pairs),
        answers(results.pairs),
        "![Exploration, after RL](plots/exploration-after.png)",
        _thoughts(runs["after"], results.folder / "after", "Thoughts, after RL"),
        _thoughts(runs["ablations"], results.folder / "ablations", "Thoughts, ablations"),
        reading.read_text(encoding="utf-8").rstrip(),
    ]
    text = "\n\n".join(tables.markdown(part) if isinstance(part, Table) else part for part in parts)
    path = out / "RESULTS.md"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read_layers(folder: Path) -> list[dict[str, float]]:
    """`led-sglang analyze`'s `layers.csv`, the first layer first.

    Returns:
        Per layer `entropy`, `r_1` and `r_8` without the final norm, `normed_entropy` with it.
    """
    with (folder / "layers.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tokens"] == "all"]
    bare = [row for row in rows if row["final_norm"] == "False"]
    # The last layer always has the norm, so it stands once.
    normed = {row["layer"]: float(row["entropy"]) for row in rows if row["final_norm"] == "True"}
    return [
        {key: float(row[key]) for key in ("entropy", "r_1", "r_8")}
        | {"normed_entropy": normed.get(row["layer"], float(row["entropy"]))}
        for row in bare
    ]


def _titled(table: Table, title: str) -> list[Table]:
    return [replace(table, title=title)] if table.rows else []


def _one_task(table: Table) -> Table:
    """An accuracy table without the name of its one task: sampler, T, pass@1, Bayes@N, pass@n."""
    return replace(
        table, heads=table.heads[1:], rows=[row[1:] for row in table.rows], labels=table.labels - 1
    )


def _head(results: Reproduction, runs: Mapping[str, Run]) -> list[str]:
    finished = sum(run["samples"]["finished"] for run in runs.values())
    expected = sum(run["samples"]["expected"] for run in runs.values())
    problems = results.measured["after"]["problems"]
    grid = runs["after"]["grid"]
    return [
        f"# Results of the tiny reasoner, level `{results.level}`",
        f"Written by `make reproduce-tiny LEVEL={results.level}` on {date.today().isoformat()}: "
        f"{results.minutes:.0f} minutes on {results.cores} CPU cores of {os.uname().machine}, "
        f"{finished:,} of {expected:,} samples. {problems} held-out problems, n = {grid['n']}, "
        f"top_p {grid['top_p']:g}, top_k {grid['top_k']}, served in float32 by real SGLang "
        "servers. Everything above the last section is computed from the run; the last one is "
        "what we make of ours.",
    ]


def _verdicts(runs: Mapping[str, Run]) -> list[str]:
    """Where LED is higher than regular decoding, and where lower."""
    lines = []
    for label in ("after", "before"):
        entries = [entry for entry in runs[label]["paired"] if entry["sampler"] == "led"]
        for metric in dict.fromkeys(entry["metric"] for entry in entries):
            found: dict[str, list[str]] = {}
            for entry in entries:
                if entry["metric"] == metric:
                    found.setdefault(entry["verdict"], []).append(f"{entry['temperature']:g}")
            text = "; ".join(f"{key} at T = {', '.join(ts)}" for key, ts in found.items())
            lines.append(f"* {metric} of LED against regular decoding, {LABELS[label]}: {text}.")
    return ["## LED against regular decoding, before and after RL", "\n".join(lines)]


def _collapse(measured: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        "Did RL collapse the final posterior?",
        "Greedy and sampled (T = 1, no filter) accuracy in percent ± standard error over problems, "
        "in transformers, float32; chance: a random walk over unvisited rooms that never goes "
        "back. Top-1 probability and entropy (nats) of the final layer, and length: means over the "
        "thought tokens of the samples, ± standard error over problems.",
        ["checkpoint", "greedy", "chance", "sampled", "top-1", "entropy", "thought tokens"],
        [
            [
                LABELS[label],
                f"{100 * m['greedy_accuracy']:.1f} ± {100 * m['greedy_accuracy_stderr']:.1f}",
                f"{100 * m['chance']:.1f}",
                f"{100 * m['sampled_accuracy']:.1f} ± {100 * m['sampled_accuracy_stderr']:.1f}",
                f"{m['top1']:.3f} ± {m['top1_stderr']:.3f}",
                f"{m['entropy']:.3f} ± {m['entropy_stderr']:.3f}",
                f"{m['thought_tokens']:.1f}",
            ]
            for label, m in measured.items()
        ],
    )


def _accuracy(runs: Mapping[str, Run]) -> Table:
    """Both checkpoints side by side."""
    parts = {label: _one_task(tables.accuracy(run)) for label, run in runs.items()}
    first = parts["after"]
    columns = zip(*(part.rows for part in parts.values()), strict=True)
    return replace(
        first,
        heads=[
            *first.heads[:2],
            *(
                f"{head}, {LABELS[label]}"
                for label, part in parts.items()
                for head in part.heads[2:]
            ),
        ],
        rows=[[*rows[0][:2], *(text for row in rows for text in row[2:])] for rows in columns],
    )


def _by_layer(layers: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    keys = {"entropy": "entropy", "normed_entropy": "normed", "r_1": "r_1", "r_8": "r_8"}
    return Table(
        "Entropy and coverage by layer",
        "Over the answers of `regular` at T = 0.6 to 30 problems: H(p^l) / log V of the latents as "
        "they are (what LED reads) and with the final norm on them; r_k: share of the final top k "
        "in the layer's top k.",
        ["layer", *(f"{name}, {label}" for name in keys.values() for label in LABELS.values())],
        [
            [
                str(index + 1),
                *(f"{layers[label][index][key]:.4f}" for key in keys for label in LABELS),
            ]
            for index in range(len(layers["after"]))
        ],
    )


def _unsure(unsure: Mapping[tuple[str, float, bool], Mapping[str, float]]) -> Table:
    return Table(
        "What exploring draws from",
        "Over the thought tokens, of the same answers, whose likeliest candidate has less than 0.9 "
        "at T (share). Allowed: probability in percent of tokens with which a search without "
        "mistakes goes on, for the final layer's candidates and for LED's mix; entropy in nats; "
        "deep: percent of steps whose mix holds a layer below the final one; distance: total "
        "variation between the two. By the float64 reference, on transformers' hidden states.",
        [
            *("checkpoint", "T", "latents", "share, %", "allowed, final", "allowed, mix"),
            *("entropy, final", "entropy, mix", "deep, %", "distance"),
        ],
        [
            [
                LABELS[label],
                f"{temperature:g}",
                "normed" if normed else "as they are",
                f"{100 * step['share']:.1f}",
                f"{100 * step['final_allowed']:.2f}",
                f"{100 * step['mix_allowed']:.2f}",
                f"{step['final_entropy']:.3f}",
                f"{step['mix_entropy']:.3f}",
                f"{100 * step['deep']:.0f}",
                f"{step['distance']:.3f}",
            ]
            for (label, temperature, normed), step in unsure.items()
        ],
        labels=3,
    )


def _thoughts(run: Run, folder: Path, title: str) -> Table:
    """Every sampler and temperature: what its thoughts are like."""
    samples: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for stored in RunStore(folder).samples():
        key = (stored.key.sampler, stored.key.temperature)
        samples.setdefault(key, []).append(stored.record)
    (cells,) = run["tasks"].values()
    rows = []
    for temperature in run["grid"]["temperatures"]:
        for spec in run["grid"]["samplers"]:
            found = samples[spec["label"], temperature]
            mistakes = share_of_mistakes(found)
            led = cells[spec["label"]][f"{temperature:g}"]["led"]
            thoughts = {(record["id"], record["reasoning_content"]) for record in found}
            rows.append(
                [
                    spec["label"],
                    f"{temperature:g}",
                    number(100 * led["explored_share"] if led else None),
                    number(100 * _deep(led["depth_histogram"]) if led else None),
                    number(led["mean_p1"] if led else None, 3),
                    number(mistakes["walks"], 2),
                    number(len(thoughts) / len({record["id"] for record in found}), 2),
                    *(
                        number(100 * mistakes[key])
                        for key in ("again", "false_step", "false_mark", "cut_off")
                    ),
                ]
            )
    return Table(
        title,
        "Explored: percent of thought tokens; deep: percent of them drawn from a mix with a layer "
        "below the final one; p1: mean top-1 probability at T. Walks: tried in a thought; "
        "distinct: different thoughts of a problem's samples. Percent of thoughts that try a walk "
        "again, with a false step (no such door, or a room twice), with a false mark (`stuck` "
        "where a way is left, `done` too soon, other text), cut off.",
        [
            *("sampler", "T", "explored", "deep", "p1", "walks", "distinct"),
            *("again", "false step", "false mark", "cut off"),
        ],
        rows,
        labels=2,
    )


def _deep(histogram: Mapping[str, int]) -> float:
    """Share of the explored tokens whose depth is above 1."""
    total = sum(histogram.values())
    return 1 - histogram.get("1", 0) / total if total else 0.0
