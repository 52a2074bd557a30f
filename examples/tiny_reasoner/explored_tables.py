"""The tables of RESULTS.md on explored steps: see `explored.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from led_sglang.evaluation.report.tables import Table, number
from tiny_reasoner.explored import Pair, Step

Pairs = Mapping[float, Sequence[Pair]]


def places(pairs: Pairs) -> Table:
    """Where LED explored, of the places a thought has."""
    rows = []
    for temperature, found in pairs.items():
        counts = Counter(place for pair in found for place in pair.places)
        explored = counts.total()
        rows.append(
            [
                f"{temperature:g}",
                f"{explored:,}",
                number(_percent(explored, sum(pair.tokens for pair in found)), 2),
                *(
                    number(_percent(counts[place], explored))
                    for place in ("fork on track", "fork off track", "forced")
                ),
            ]
        )
    return Table(
        "Where LED explored",
        "Explored think tokens, their share of all, and in percent of them: at a fork (more than "
        "one unvisited room next door) on track (the walk so far begins the solution), at a fork "
        "off it, where nothing is right any more, and where the search leaves no choice.",
        ["T", "explored", "share, %", "fork on track, %", "fork off track, %", "forced, %"],
        rows,
    )


def choices(pairs: Pairs) -> Table:
    """At forks on track: how likely the right room was, and what exploring drew."""
    kinds: dict[str, Callable[[Step], bool]] = {
        "all": lambda step: True,
        "likeliest room right": lambda step: step.judged,
        "likeliest room wrong": lambda step: not step.judged,
    }
    rows = []
    for temperature, found in pairs.items():
        every = [step for pair in found for step in pair.steps]
        for name, is_kind in kinds.items():
            steps = [step for step in every if is_kind(step)]
            explored = [step for step in steps if step.explored]
            rows.append(
                [
                    *(f"{temperature:g}", name, f"{len(steps):,}"),
                    number(_mean([step.gate for step in steps])),
                    number(_mean([step.final_right for step in steps])),
                    number(_mean([step.mix_right for step in steps])),
                    # Where the gate opens, for there alone the mix is drawn from.
                    number(_mean([step.final_right for step in explored])),
                    number(_mean([step.mix_right for step in explored])),
                    number(_mean([float(step.right) for step in explored])),
                    number(_mean([float(step.allowed) for step in explored])),
                ]
            )
    return Table(
        "What exploring chose at forks on track",
        "In percent. Gate: chance to explore. Right, final and mix: probability of the room that "
        "leads to the solution among the final layer's candidates and in the mix that exploring "
        "draws from, over all steps, then over explored ones; drawn: share of explored tokens that "
        "are right, and that are unvisited rooms next door.",
        [
            *("T", "forks", "steps", "gate", "right, final", "right, mix"),
            *("explored: right, final", "right, mix", "drawn right", "allowed"),
        ],
        rows,
        labels=2,
    )


def answers(pairs: Pairs) -> Table:
    """Answers of LED beside regular's of the same seed."""
    kinds: dict[str, Callable[[Pair], bool]] = {
        "nothing explored": lambda pair: not pair.explored,
        "explored, same answer": lambda pair: pair.explored and not pair.parted,
        "explored, other answer": lambda pair: pair.explored and pair.parted,
    }
    rows = []
    for temperature, found in pairs.items():
        for name, is_kind in kinds.items():
            some = [pair for pair in found if is_kind(pair)]
            rows.append(
                [
                    *(f"{temperature:g}", name, f"{len(some):,}"),
                    number(_mean([float(pair.regular) for pair in some])),
                    number(_mean([float(pair.led) for pair in some])),
                    f"{sum(pair.led and not pair.regular for pair in some):,}",
                    f"{sum(pair.regular and not pair.led for pair in some):,}",
                ]
            )
    return Table(
        "Answers with explored tokens beside regular's of the same seed",
        "Each sample is drawn by both with the same noise. Percent of right answers; gained: LED "
        "right and regular wrong; lost: the other way round.",
        ["T", "samples", "count", "regular right, %", "LED right, %", "gained", "lost"],
        rows,
        labels=2,
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return 100 * sum(values) / len(values) if values else None
