"""Samplers with settings, as the `samplers` of a grid file list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from led_sglang.common.user_files import FOLDER_NAME, check_keys, parse_yaml

# Names that stand for the files of `led_sglang.configs`, folder `eval`.
SHIPPED = ("paper", "quick", "ablations")
_KEYS = ("name", "label", "params", "sampling")


@dataclass(frozen=True)
class SamplerSpec:
    """A method as a request asks for it.

    Attributes:
        label: names it in folders, reports and behind a model's name; the method's name unless
            given.
        name: `custom_params.sampler`.
        params: the method's own group of `custom_params`.
        sampling: further keys of the request for this method (e.g. `repetition_penalty`).
    """

    label: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)


def read_grid_file(name: str, flag: str, error: type[Exception]) -> Any:
    """What a grid file holds, by path or by the name of a shipped one, see `SHIPPED`.

    Args:
        flag: that names the file, for the sentence.
        error: raised where there is no such file, or it is no YAML.
    """
    path = Path(name)
    if name in SHIPPED:
        path = Path(str(resources.files("led_sglang.configs"))) / "eval" / f"{name}.yaml"
    elif not path.is_file():
        raise error(
            f"{flag} {name} is no file and no shipped grid: give one of {', '.join(SHIPPED)}, or "
            "a YAML file"
        )
    return parse_yaml(path.read_bytes(), f"{flag} {name}", error)


def parse_sampler(entry: Any, where: str, error: type[Exception]) -> SamplerSpec:
    """`led`, or `{name: led, label: led-d4, params: {depth: 4}, sampling: {...}}`.

    Raises:
        error: it is neither; the message begins with `where` and names the key.
    """
    given: Any = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise error(f"{where}: a sampler must be a name or a mapping with `name`")
    check_keys(given, where, optional=_KEYS, within="samplers", error=error)
    for key in ("params", "sampling"):
        value = given.get(key) or {}
        # YAML reads `on`, `off`, `yes`, `no` and numbers as what they say.
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise error(f"{where}: samplers.{key} must be a mapping of names, not {value!r}")
    label = given.get("label", given["name"])
    if not isinstance(label, str) or not FOLDER_NAME.fullmatch(label):
        raise error(
            f"{where}: sampler label {label!r} must be a text of letters, digits and -_. that does "
            "not begin with a point"
        )
    return SamplerSpec(
        label=label,
        name=given["name"],
        params=dict(given.get("params") or {}),
        sampling=dict(given.get("sampling") or {}),
    )
