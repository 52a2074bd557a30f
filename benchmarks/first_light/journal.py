"""Results as they come: a line of JSON for each, and a summary that is whole at any moment."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.first_light.parts import Part

_REHEARSED = (
    "**A rehearsal without a GPU**, at toy sizes: it shows that the commands run, and no figure in "
    "it means anything.\n"
)


class Journal:
    """What was found so far, in `folder`; an earlier run's files are replaced."""

    def __init__(self, folder: Path, rehearsal: bool) -> None:
        self.folder = folder
        self.failed = False
        self._rehearsal = rehearsal
        self._parts: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "results.jsonl").open("w", buffering=1)

    def begin(self, part: Part) -> None:
        """Say what comes."""
        print(f"{part.name}: {part.what} (at most {part.limit_s} s) ...", flush=True)
        self._parts[part.name] = {"outcome": "running", "findings": [], "what": part.what}
        self._summarise()

    def found(self, part: Part, finding: dict[str, Any]) -> None:
        """A finding of a part that runs: check, passed (true, false or null), figures."""
        self._write(part=part.name, **finding)
        self._parts[part.name]["findings"].append(finding)
        mark = {True: "ok  ", False: "FAIL", None: "    "}[finding["passed"]]
        print(f"  {mark} {finding['check']}: {finding['figures']}", flush=True)
        self.failed |= finding["passed"] is False
        self._summarise()

    def end(self, part: Part, outcome: str, seconds: float, said: str) -> None:
        """How a part ended; `said`: why it did not run, or its last line."""
        self._write(part=part.name, outcome=outcome, seconds=round(seconds, 1), said=said)
        self._parts[part.name] |= {"outcome": outcome, "seconds": seconds, "said": said}
        self.failed |= outcome not in ("ok", "not here")
        print(f"  {outcome}{f': {said}' if said else ''} ({seconds:.0f} s)", flush=True)
        self._summarise()

    def _write(self, **line: Any) -> None:
        self._lines.write(json.dumps(line) + "\n")

    def _summarise(self) -> None:
        lines = [f"# First light, {time.strftime('%Y-%m-%d %H:%M')}", ""]
        lines += [_REHEARSED] if self._rehearsal else []
        lines += ["| part | outcome | seconds | what |", "|---|---|---|---|"]
        for name, part in self._parts.items():
            outcome = f"{part['outcome']}{': ' if part.get('said') else ''}{part.get('said', '')}"
            seconds = f"{part['seconds']:.0f}" if "seconds" in part else ""
            lines.append(f"| {name} | {_cell(outcome)} | {seconds} | {part['what']} |")
        lines += ["", "| part | check | | seen |", "|---|---|---|---|"]
        for name, part in self._parts.items():
            for f in part["findings"]:
                mark = {True: "ok", False: "**FAIL**", None: ""}[f["passed"]]
                lines.append(f"| {name} | {f['check']} | {mark} | {_cell(f['figures'])} |")
        # Replaced as a whole, so that it can be read at any moment.
        draft = self.folder / "summary.md.part"
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.folder / "summary.md")


def _cell(text: str) -> str:
    return text[:300].replace("|", "\\|")
