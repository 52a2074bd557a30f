"""The first minutes on a real GPU: every part in a process of its own, under its own time limit.

    python -m benchmarks.first_light --out DIR              all parts
    python -m benchmarks.first_light --out DIR --only A     what needs torch and Triton alone
    python -m benchmarks.first_light --list                 what there is

Results are written as they come: DIR/results.jsonl, DIR/summary.md, and a log of every part.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.first_light.journal import Journal
from benchmarks.first_light.parts import PARTS, Part
from benchmarks.first_light.processes import run_part


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for.

    Returns:
        The exit status: 0; 1 where a part failed or ran out of time; 2 where nothing can run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_light", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--only", default="A,B", help="A, B or names of parts, with commas between")
    parser.add_argument("--list", action="store_true", help="show the parts")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="on a machine without a GPU: part A in Triton's interpreter, part B on the CPU "
        "platform, at toy sizes; it shows that the commands run, and measures nothing",
    )
    options = parser.parse_args(arguments)
    if options.list:
        for part in PARTS:
            print(f"{part.room}  {part.name:20} {part.limit_s:5} s  {part.what}")
        return 0
    if options.out is None:
        parser.error("--out DIR is missing")
    wanted = _wanted(parser, options.only)
    if not options.rehearse and not torch.cuda.is_available():
        print("first light needs a GPU, and torch finds none here; --rehearse runs without one")
        return 2
    journal = Journal(options.out.resolve(), options.rehearse)
    for part in wanted:
        journal.begin(part)
        reason = part.missing(options.rehearse)
        if reason is not None:
            journal.end(part, "not here", 0.0, reason)
            continue
        run_part(part, journal, options.rehearse)
    print(journal.folder / "summary.md")
    return int(journal.failed)


def _wanted(parser: argparse.ArgumentParser, only: str) -> list[Part]:
    names = [name.strip() for name in only.split(",")]
    unknown = set(names) - {part.name for part in PARTS} - {"A", "B"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; --list shows them")
    return [part for part in PARTS if part.name in names or part.room in names]


if __name__ == "__main__":
    sys.exit(main())
