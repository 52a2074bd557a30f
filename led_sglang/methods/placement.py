"""Where a request body holds LED's keys, and which of them stand where nothing reads them.

SGLang ignores keys it does not know, so that a misplaced `"sampler": "regular"` would be answered
by another sampler. Knows nothing of SGLang.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from led_sglang.methods.registry import sampler_names
from led_sglang.methods.values import ParameterError, show

# Keys from the body down to the object that holds `custom_params`; () is the body itself.
Path = tuple[str, ...]

KEY = "custom_params"

# Objects in which clients put what belongs elsewhere. What others hold (`metadata`,
# `chat_template_kwargs`) has a meaning of its own.
_WRAPPERS = frozenset(
    {
        *("extra-args", "extra-body", "extra-params", "extra-query", "instances", "options"),
        *("parameters", "sampling-params"),
    }
)
_DEEPEST = 4
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@cache
def _words() -> frozenset[str]:
    return frozenset({"custom-param", "custom-params", "customparams", "sampler", *sampler_names()})


@cache
def _starts() -> tuple[str, ...]:
    """`led_depth`, `led.depth`, `custom_params[sampler]`"""
    groups = [name for name in sampler_names() if name != "regular"]
    return tuple(word + mark for word in ("custom-params", *groups) for mark in "-.[")


def is_ours(key: str) -> bool:
    """Whether a key is one of LED's, however it is spelled."""
    word = _spelled(key)
    return word in _words() or word.startswith(_starts())


def _spelled(key: str) -> str:
    """`customParams`, `Custom_Params` and `custom-params` are one word."""
    return _CAPITAL.sub("-", key[:64]).lower().replace("_", "-")


def objects_at(body: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The objects that lie at `path`; where a list lies, those in it (batches)."""
    if isinstance(body, list):
        for element in body:
            if isinstance(element, dict):
                yield from objects_at(element, path)
    elif isinstance(body, dict):
        if path:
            yield from objects_at(body.get(path[0]), path[1:])
        else:
            yield body


def refuse_misplaced(body: Mapping[str, Any], places: tuple[Path, ...], url: str) -> None:
    """Check that no key of LED's stands where this endpoint reads none.

    Args:
        body: of the request.
        places: where the endpoint reads `custom_params`; the first is recommended.
        url: the endpoint's.

    Raises:
        ParameterError: names the key, where it stands and where it belongs.
    """
    found = _misplaced(body, places, ())
    if found is None:
        return
    example: dict[str, Any] = {KEY: {"sampler": "regular"}}
    for key in reversed(places[0]):
        example = {key: example}
    *inside, name = found
    where = f"in {'.'.join(inside)}" if inside else "at the top level"
    client = " (extra_body is an argument of the OpenAI client, not a key)"
    raise ParameterError(
        f"{show(name)[1:-1]} {where} is not read by {url}"
        + (client if "extra-body" in map(_spelled, inside) else "")
        + f"; LED's settings belong in {'.'.join((*places[0], KEY))}, as in {json.dumps(example)}"
    )


def _misplaced(objects: Any, places: tuple[Path, ...], path: Path) -> Path | None:
    for values in objects_at(objects, ()):
        for key, value in values.items():
            if is_ours(key):
                if key != KEY or path not in places:
                    return (*path, key)
            elif _spelled(key) in _WRAPPERS and len(path) < _DEEPEST:
                found = _misplaced(value, places, (*path, key))
                if found is not None:
                    return found
    return None


def named_method(body: Any, depth: int = 0) -> str | None:
    """The method other than `regular` that a body asks for, in the right place or in another."""
    methods = {name.replace("_", "-"): name for name in sampler_names() if name != "regular"}
    for values in objects_at(body, ()):
        for key, value in values.items():
            word = _spelled(key)
            if word == "sampler" and isinstance(value, str) and _spelled(value) in methods:
                return methods[_spelled(value)]
            if word in methods and isinstance(value, dict):
                return methods[word]
            if (word in _WRAPPERS or word == _spelled(KEY)) and depth < _DEEPEST:
                found = named_method(value, depth + 1)
                if found is not None:
                    return found
    return None


def given_custom_params(body: Any, places: tuple[Path, ...]) -> list[Any]:
    """The `custom_params` of each request in a body, None where one has none.

    Raises:
        ParameterError: given in two places.
    """
    given = {path: [values.get(KEY) for values in objects_at(body, path)] for path in places}
    filled = [path for path in places if any(value is not None for value in given[path])]
    if len(filled) > 1:
        named = " and in ".join(".".join((*path, KEY)) for path in filled)
        raise ParameterError(f"LED's settings are given twice, in {named}; leave one out")
    return given[filled[0] if filled else places[0]] or [None]
