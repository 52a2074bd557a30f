"""The commands and snippets of README.md and docs/*.md, taken from the pages as they stand."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_SHELL = ("make", "led-sglang", "curl", "pip", "python", "pytest", "mkdir", "printf", "bash")
_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Text in backquotes that is a whole command, not only the name of one.
_INLINE = re.compile(r"`(led-sglang (?:doctor|[a-z]+ [^`]+))`")


@dataclass(frozen=True)
class Snippet:
    """One thing that a reader would run.

    Attributes:
        page: its file's name.
        kind: "shell" (one command), "python" (a block), "data" (a file's content), or "console" (a
            command behind "$ ", and what it prints).
        text: as it stands on the page, without the indentation.
    """

    page: str
    kind: str
    text: str

    @property
    def key(self) -> str:
        """One line that stands for it: the command without its comment, or the first line."""
        if self.kind == "console":
            return self.text.partition("\n")[0].partition("  #")[0].rstrip()
        if self.kind == "shell":
            return " ".join(re.sub(r"\s+# .*$|\\\n", "", self.text).split())
        return self.text.partition("\n")[0]

    @property
    def label(self) -> str:
        """Page and beginning, to name a test."""
        return f"{self.page}: {self.key[:80]}"


def snippets(page: Path) -> list[Snippet]:
    """Everything on a page that a reader would run, from top to bottom; each text once."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in _blocks(text):
        if language == "text":  # a picture, nothing to run
            continue
        kind = "console" if language == "console" else _kind(block)
        split = {"shell": _commands, "console": _exchanges}.get(kind, lambda block: [block])
        found += [Snippet(page.name, kind, part) for part in split(block)]
    prose = re.sub(r"^    .*$", "", _FENCED.sub("", text), flags=re.MULTILINE)
    inline = [" ".join(match.split()) for match in _INLINE.findall(prose)]
    found += [Snippet(page.name, "shell", command) for command in inline]
    return list(dict.fromkeys(found))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Code blocks and their languages: fenced, or indented by four spaces behind an empty line."""
    yield from _FENCED.findall(text)
    indented = re.compile(r"(?:(?<=\n\n)|\A)(?:    [^\n]*\n(?:\n+(?=    ))?)+")
    for match in indented.finditer(_FENCED.sub("", text)):
        yield "", textwrap.dedent(match.group()).strip("\n")


def _kind(block: str) -> str:
    first = block.split(maxsplit=1)[0]
    if first in _SHELL or "/bin/" in first:
        return "shell"
    return "python" if first in ("import", "from") else "data"


def _exchanges(block: str) -> list[str]:
    """Each command of a terminal's recording with what it prints."""
    return [f"$ {part}".strip() for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def _commands(block: str) -> Iterator[str]:
    """The commands of a shell block; quotes and backslashes join lines."""
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        if _complete("\n".join(lines)):
            command = "\n".join(lines).strip()
            if command:
                yield command
            lines = []
    assert not lines, f"an open quote in {block!r}"


def _complete(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
