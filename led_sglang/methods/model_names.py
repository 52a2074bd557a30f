"""A sampler chosen by the model's name, `NAME:sampler` (docs/serving.md#a-sampler-by-model-name).

Every client and gateway carries the model's name; few carry `custom_params`. Knows nothing of
SGLang.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from led_sglang.common.samplers import SamplerSpec, parse_sampler, read_grid_file
from led_sglang.methods.placement import KEY, Path, objects_at
from led_sglang.methods.registry import sampler_names
from led_sglang.methods.request import parse_request
from led_sglang.methods.values import ParameterError, show
from led_sglang.settings import LaunchRefused, ServerSettings


class UnknownModel(ValueError):
    """No model has this name; HTTP 404, in SGLang's own words."""


@dataclass(frozen=True)
class ServedNames:
    """The names under which a server answers.

    Attributes:
        served: the model's, SGLang's --served-model-name.
        adapters: names of LoRA adapters, which SGLang serves as `served:adapter`.
        settings: what stands behind the last colon: samplers, and presets of --led-aliases.
    """

    served: str
    adapters: Container[str]
    settings: ServerSettings

    def aliases(self) -> tuple[SamplerSpec, ...]:
        """What a model's name may end with."""
        samplers = tuple(SamplerSpec(name, name) for name in self.settings.enabled)
        return samplers + self.settings.aliases

    def listed(self) -> list[str]:
        """The aliases as whole names."""
        return [f"{self.served}:{alias.label}" for alias in self.aliases()]

    def split(self, model: str) -> tuple[str, SamplerSpec | None]:
        """A model's name without the alias at its end, and the alias; None where there is none."""
        base, _, label = model.rpartition(":")
        if model == self.served or not base:
            return model, None
        found = [alias for alias in self.aliases() if label.strip() in _labels(alias)]
        return (base.strip(), found[0]) if found else (model, None)

    def read(self, model: str) -> SamplerSpec | None:
        """The alias at the end of a model's name, None where there is none.

        Raises:
            UnknownModel: what stands behind the model's own name is no adapter either, or a
                sampler is named in another way; says what is served, and the flag that enables it.
        """
        base, alias = self.split(model)
        if base == self.served:
            return alias
        label = base.rpartition(":")[2]
        # `regular` alone, or `Regular`: another sampler would answer.
        spelled = label.strip().casefold().replace("_", "-")
        unknown = spelled in sampler_names() and label.strip() not in self.adapters
        if base.startswith(f"{self.served}:"):
            unknown = unknown or base[len(self.served) + 1 :].strip() not in self.adapters
        if unknown:
            raise UnknownModel(
                f"The model {model!r:.300} does not exist: this server answers to "
                f"{', '.join([self.served, *self.listed()])}{self._how_to_enable(label.strip())}"
            )
        return alias

    def _how_to_enable(self, label: str) -> str:
        if label not in sampler_names() or label in self.settings.enabled:
            return ""
        return f"; start it with --enable-samplers {label} to offer {self.served}:{label}"


def _labels(alias: SamplerSpec) -> tuple[str, str]:
    """As which a request may name it: as it is listed, and without the sampler's name in front."""
    return alias.label, alias.label.removeprefix(f"{alias.name}-")


def read_aliases(grid: str, enabled: Container[str]) -> tuple[SamplerSpec, ...]:
    """The samplers with settings that a grid file names, beside the samplers themselves.

    A label gets the sampler's name in front, unless it begins so: the model's name in an answer
    then tells the method.

    Args:
        grid: of `--led-aliases`: a path, or the name of a shipped grid.
        enabled: samplers that the server offers.

    Raises:
        LaunchRefused: no such file, or an entry that could not be served.
    """
    where = f"--led-aliases {grid}"
    keys = read_grid_file(grid, "--led-aliases", LaunchRefused)
    entries = keys.get("samplers") if isinstance(keys, dict) else None
    if not isinstance(entries, list) or not entries:
        raise LaunchRefused(f"{where} has no list `samplers`")
    aliases: list[SamplerSpec] = []
    for spec in (parse_sampler(entry, where, LaunchRefused) for entry in entries):
        if spec.name not in sampler_names():
            known = ", ".join(sampler_names())
            raise LaunchRefused(f"{where}: the sampler {spec.name!r} is not one of {known}")
        if spec.name not in enabled:
            raise LaunchRefused(
                f"{where}: {spec.label} uses the sampler {spec.name}, which is not offered; add "
                f"--enable-samplers {spec.name}"
            )
        if spec.sampling:
            raise LaunchRefused(
                f"{where}: {spec.label} sets `sampling`, which a model's name does not carry; "
                "leave it out"
            )
        if spec == SamplerSpec(spec.name, spec.name):
            continue
        if not spec.label.startswith(f"{spec.name}-"):
            spec = replace(spec, label=f"{spec.name}-{spec.label}")
        taken = {*sampler_names(), *(label for alias in aliases for label in _labels(alias))}
        if not taken.isdisjoint(_labels(spec)):
            raise LaunchRefused(
                f"{where}: the label {_labels(spec)[-1]!r} is taken; give each entry one of its own"
            )
        aliases.append(spec)
    return tuple(aliases)


def check_aliases(settings: ServerSettings) -> None:
    """Check that a request with each alias would be served.

    Raises:
        LaunchRefused: names the alias and the key.
    """
    for alias in settings.aliases:
        try:
            parse_request(chosen(alias, None), settings, foreign_keys=False)
        except ParameterError as error:
            raise LaunchRefused(f"--led-aliases: {alias.label}: {error}") from None


def taken_names(settings: ServerSettings) -> frozenset[str]:
    """What neither a served model's name nor a LoRA adapter's may end with, behind a colon."""
    labels = (label for alias in settings.aliases for label in _labels(alias))
    return frozenset((*sampler_names(), *labels))


def clashing(name: str, settings: ServerSettings) -> str | None:
    """The end of an adapter's name (or a model's, behind a colon) that is an alias; else None."""
    end = name.rpartition(":")[2].strip()
    return end if end in taken_names(settings) else None


def choose(body: dict[str, Any], places: tuple[Path, ...], alias: SamplerSpec) -> None:
    """Write what the model's name has chosen into every `custom_params` of a body.

    Args:
        body: of the request; changed.
        places: where the endpoint reads `custom_params`.

    Raises:
        ParameterError: a `custom_params` says otherwise.
    """
    given = [p for p in places if any(v.get(KEY) is not None for v in objects_at(body, p))]
    path = given[0] if given else places[0]
    if not list(objects_at(body, path)):
        holder = body
        for key in path:
            holder[key] = holder = {}
    for holder in objects_at(body, path):
        holder[KEY] = chosen(alias, holder.get(KEY))


def chosen(alias: SamplerSpec, custom_params: Any) -> Any:
    """The `custom_params` of a request whose model's name ends with `alias`.

    Args:
        custom_params: what the request itself holds, any type.

    Raises:
        ParameterError: it names another sampler, or another value of a preset's key.
    """
    given = {} if custom_params is None else custom_params
    if not isinstance(given, dict):
        return given  # refused where it is parsed
    end = f'the model\'s name ends in ":{alias.label}"'
    if given.get("sampler", alias.name) != alias.name:
        raise ParameterError(
            f'custom_params.sampler is {show(given["sampler"])} and {end}, sampler "{alias.name}"; '
            "leave one of them out"
        )
    result = {**given, "sampler": alias.name}
    own = given.get(alias.name)
    if not alias.params or not (own is None or isinstance(own, Mapping)):
        return result
    for key, value in (own or {}).items():
        if key in alias.params and value != alias.params[key]:
            raise ParameterError(
                f"custom_params.{alias.name}.{key} is {show(value)} and {end}, which sets "
                f"{show(alias.params[key])}; leave one of them out"
            )
    return {**result, alias.name: {**alias.params, **(own or {})}}
