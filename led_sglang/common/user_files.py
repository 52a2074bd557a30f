"""Files that people write: YAML whose keys are checked, and texts line by line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# A name that becomes a folder: `.` and `..` would be others.
FOLDER_NAME = re.compile(r"(?!\.)[\w.-]+")


def check_keys(
    keys: Any,
    where: str,
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    within: str = "",
    error: type[Exception] = ValueError,
) -> Mapping[str, Any]:
    """What was written, which is a mapping with all `required` keys and no unknown one.

    Args:
        keys: as read from YAML or JSON.
        where: file or flags it comes from, for the sentence.
        within: key of the outer mapping that holds this one.
        error: raised with one sentence that names the key and what is allowed.
    """
    allowed = [*required, *optional]
    if not isinstance(keys, Mapping):
        name = f"{where}: {within}" if within else where
        raise error(f"{name} must be a mapping of {', '.join(allowed)}, not {keys!r}")
    prefix = f"{within}." if within else ""
    for key in keys:
        if key not in allowed:
            raise error(f"{where}: unknown key {prefix}{key} (allowed: {', '.join(allowed)})")
    for key in required:
        if key not in keys:
            raise error(f"{where}: key {prefix}{key} is missing")
    return keys


class _EachKeyOnce(yaml.SafeLoader):
    """YAML has each key of a mapping once; PyYAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value} stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str | bytes, where: str, error: type[Exception] = ValueError) -> Any:
    """The document that a YAML file holds; `error` names the line where it is none."""
    try:
        return yaml.load(text, Loader=_EachKeyOnce)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" (line {mark.line + 1}: {getattr(problem, 'problem', '')})" if mark else ""
        raise error(f"{where} is not YAML{line}") from None
    except (ValueError, RecursionError) as problem:  # a date that is none, a hundred brackets
        raise error(f"{where} is not YAML ({problem})") from None


def numbered_lines(path: Path, error: type[Exception]) -> list[tuple[int, str]]:
    """The lines of a text file that people write, with their numbers; blank ones are left out.

    Raises:
        error: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path} cannot be read: {problem}") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
