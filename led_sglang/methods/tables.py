"""The tables of README and docs that say what a request may set, from the parameters' declarations.

A table stands on a page between `<!-- parameters of METHOD -->` and `<!-- end -->`; with
`<!-- parameters of METHOD beyond OTHER -->` it holds only what OTHER does not take.
`python -m led_sglang.methods.tables PAGE ...` rewrites those of the pages, without a page it prints
all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from led_sglang.methods.parameter import Parameter
from led_sglang.methods.registry import method_of, sampler_names

_PLACE = re.compile(
    r"(<!-- parameters of (\S+)(?: beyond (\S+))? -->\n).*?(?=<!-- end -->)", re.DOTALL
)
_HEAD = "| key | values | default | meaning |\n|---|---|---|---|\n"


def table(sampler: str, beyond: str | None = None) -> str:
    """A method's parameters as a Markdown table, one row each.

    Args:
        sampler: the method's name, as in `custom_params.sampler`.
        beyond: given: without the parameters that this method takes too.

    Raises:
        ValueError: a name of no method that takes parameters.
    """
    known = {p.name for p in _parameters(beyond)} if beyond else set()
    rows = (
        f"| `{p.name}` | {p.values} | {_default(p.default, p.from_server)} | {p.meaning} |\n"
        for p in _parameters(sampler)
        if p.name not in known
    )
    return _HEAD + "".join(rows)


def samplers() -> tuple[str, ...]:
    """The methods that take parameters: all but `regular`."""
    return tuple(name for name in sampler_names() if method_of(name) is not None)


def keys() -> str:
    """One line per method: its name and the keys of its group."""
    return "\n".join(f"{s}: {', '.join(p.name for p in _parameters(s))}" for s in samplers())


def rewritten(page: str) -> str:
    """A page's text with its tables as the declarations say."""
    return _PLACE.sub(lambda place: place[1] + table(place[2], place[3]), page)


def _parameters(sampler: str) -> tuple[Parameter, ...]:
    method = method_of(sampler)
    if method is None:
        raise ValueError(f"{sampler} is no method that takes parameters")
    return method.parameters(sampler)


def _default(value: Any, from_server: bool) -> str:
    if from_server:
        return "the server's"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def main(pages: Sequence[str]) -> None:
    """Rewrite the tables of the pages, or print all tables."""
    for page in map(Path, pages):
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
    if not pages:
        print("\n".join(f"{sampler}\n\n{table(sampler)}" for sampler in samplers()), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
