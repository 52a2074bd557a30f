"""Presets per model family: think delimiters, LED's defaults, recommended sampling.

Each family is one YAML file of `led_sglang.configs`, folder `families`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, cast

from led_sglang.common.user_files import check_keys, parse_yaml

_FALLBACK = "default"
_KEYS = ("name", "match", "think_start", "think_end", "depth", "candidates", "sampling", "notes")
_OPTIONAL_KEYS = ("tool_start",)
_MATCH_KEYS = ("model_type", "name")
_SAMPLING_KEYS = ("temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Preset:
    """What LED assumes about one model family.

    Attributes:
        name: of the family; also the file's name.
        model_types: values of `model_type` in the model's config.json that belong to it.
        name_patterns: regular expressions, searched in the model's path or name without regard
            to case. Where both lists are given, both must match; the fallback has neither.
        think_start: text that starts thinking.
        think_end: text that ends it.
        depth: exploration depth d, in layers.
        candidates: number of candidates k.
        sampling: the `temperature`, `top_p` and `top_k` that the family recommends; a key is
            missing where it publishes none.
        notes: where the values come from.
        tool_start: text that begins a tool call and ends an open thought, as in SGLang's reasoning
            parser of the family; empty where it has none.
    """

    name: str
    model_types: tuple[str, ...]
    name_patterns: tuple[str, ...]
    think_start: str
    think_end: str
    depth: int
    candidates: int
    sampling: Mapping[str, float]
    notes: str
    tool_start: str = ""

    def matches(self, model_type: str, model_name: str) -> bool:
        """Whether a model belongs to the family; the fallback matches every model."""
        by_type = not self.model_types or model_type in self.model_types
        by_name = not self.name_patterns or any(
            re.search(pattern, model_name, re.IGNORECASE) for pattern in self.name_patterns
        )
        return by_type and by_name

    def with_texts(self, change: Callable[[str], str]) -> Preset:
        """The same with each delimiter's text changed."""
        return replace(
            self,
            think_start=change(self.think_start),
            think_end=change(self.think_end),
            tool_start=change(self.tool_start),
        )


@cache
def load_presets() -> tuple[Preset, ...]:
    """All presets, the most specific first and the fallback last.

    Raises:
        ValueError: a file has an unknown, missing or wrong key, or there is no fallback.
    """
    presets = [
        parse_preset(file.name, file.read_text(encoding="utf-8"))
        for file in (resources.files("led_sglang.configs") / "families").iterdir()
    ]
    if not any(preset.name == _FALLBACK for preset in presets):
        raise ValueError(f"the folder of presets has no {_FALLBACK}.yaml")
    # A name pattern is more specific than a model type, both than one of them.
    presets.sort(key=lambda p: (not p.name_patterns, not p.model_types, p.name))
    return tuple(presets)


def pick_preset(model_type: str, model_name: str) -> Preset:
    """The preset of a model, by `model_type` of its config.json and its path or name.

    Presets with a name pattern come before those without.
    """
    return next(preset for preset in load_presets() if preset.matches(model_type, model_name))


def parse_preset(file_name: str, text: str) -> Preset:
    """One preset from the text of its file.

    Args:
        file_name: named in errors; its stem must be the preset's name.
        text: YAML.

    Raises:
        ValueError: not YAML, or a key is unknown, missing or has a wrong value; the message names
            the file and the key.
    """
    document = parse_yaml(text, file_name)
    data = _Section(file_name, "", document, required=_KEYS, optional=_OPTIONAL_KEYS)
    match = _Section(file_name, "match", data.values["match"], required=_MATCH_KEYS)
    sampling = _Section(file_name, "sampling", data.values["sampling"], optional=_SAMPLING_KEYS)
    preset = Preset(
        name=data.text("name"),
        model_types=match.texts("model_type"),
        name_patterns=match.texts("name"),
        think_start=data.text("think_start"),
        think_end=data.text("think_end"),
        depth=data.whole("depth", 1),
        candidates=data.whole("candidates", 1),
        sampling={
            key: sampling.whole(key, 1) if key == "top_k" else sampling.number(key)
            for key in sampling.values
        },
        notes=data.text("notes"),
        tool_start=data.text("tool_start") if "tool_start" in data.values else "",
    )
    if f"{preset.name}.yaml" != file_name:
        data.refuse("name", "the file's name without .yaml")
    if preset.think_start == preset.think_end:
        data.refuse("think_end", "different from think_start")
    if preset.tool_start in (preset.think_start, preset.think_end):
        data.refuse("tool_start", "different from the think delimiters")
    if (preset.name == _FALLBACK) != (not preset.model_types and not preset.name_patterns):
        data.refuse("match", f"empty in {_FALLBACK}.yaml and only there")
    for pattern in preset.name_patterns:
        try:
            re.compile(pattern)
        except re.error:
            match.refuse("name", f"a list of regular expressions, {pattern!r} is none")
    return preset


class _Section:
    """One mapping of a preset file; its readers raise ValueError naming file and key."""

    def __init__(self, file_name: str, within: str, values: Any, **keys: Any) -> None:
        self._file_name, self._prefix = file_name, f"{within}." if within else ""
        self.values = check_keys(values, file_name, within=within, **keys)

    def refuse(self, key: str, wanted: str) -> None:
        value = self.values[key]
        raise ValueError(f"{self._file_name}: {self._prefix}{key} must be {wanted}, not {value!r}")

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str) or not value:
            self.refuse(key, "a text")
        return cast(str, value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values[key]
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.refuse(key, "a list of texts")
        return tuple(value)

    def whole(self, key: str, minimum: int) -> int:
        value = self.values[key]
        if type(value) is not int or value < minimum:
            self.refuse(key, f"a whole number from {minimum} up")
        return cast(int, value)

    def number(self, key: str) -> float:
        value = self.values[key]
        if type(value) not in (int, float) or value <= 0:
            self.refuse(key, "a number above 0")
        return float(value)
