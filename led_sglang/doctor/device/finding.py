"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        passed: None where there was nothing to judge, such as a time.
        figures: what was seen.
    """

    check: str
    passed: bool | None
    figures: str

    def __str__(self) -> str:
        """The line in Markdown."""
        outcome = {True: "ok", False: "**FAIL**", None: ""}[self.passed]
        return f"| {self.check} | {outcome} | {self.figures} |"
