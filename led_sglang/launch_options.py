"""What the user asks of LED at launch: the one declaration of its flags, and how they resolve.

Read before SGLang is imported, by SGLang's own parser, and from the environment.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from led_sglang.common.samplers import SamplerSpec
from led_sglang.common.user_files import check_keys
from led_sglang.launch_layers import resolve_depth, resolve_dola_layers
from led_sglang.methods.led.params import LAYERS, LOGPROBS, MAX_CANDIDATES
from led_sglang.methods.model_names import read_aliases
from led_sglang.methods.registry import sampler_names
from led_sglang.settings import LaunchRefused

# Launches without a command line (`sgl.Engine`) read the same options from here, as JSON.
ENVIRONMENT_VARIABLE = "LED_SGLANG"
SELF_CHECKS = ("on", "strict", "off")
TRUNCATION_CHECKS = ("on", "off")


def _flag(metavar: str, text: str, kind: type = str, bare: str | None = None) -> Any:
    """A flag of the field's name (`led_depth`: `--led-depth`), None where it is not given.

    Args:
        metavar: of its value.
        text: of the help.
        kind: of the value.
        bare: what the flag says without a value; None: it needs one.
    """
    metadata = {"metavar": metavar, "help": text, "kind": kind, "bare": bare}
    return field(default=None, metadata=metadata)


@dataclass(frozen=True)
class LaunchOptions:
    """What the user typed; None is "not given"."""

    sampler: str | None = _flag(
        "NAME",
        f"method of requests that name none, one of {', '.join(sampler_names())} (default: led)",
    )
    enable_samplers: str | None = _flag(
        "NAME,NAME",
        "what else a request may choose; regular it always may. led and dola keep the streams of "
        "the layers they read, dola about half of all; the soft methods look up 32 embeddings per "
        "row and decode step (default: none)",
    )
    led_depth: int | None = _flag(
        "D",
        "exploration depth d, and the deepest a request may ask for (default: the model family's "
        "preset, 8)",
        int,
    )
    led_candidates: int | None = _flag(
        "K", f"candidates k, 1..{MAX_CANDIDATES} (default: the preset's, 8)", int
    )
    led_layers: str | None = _flag("PRESET", "latent layers: paper or release (default: paper)")
    led_logprobs: str | None = _flag(
        "WHOSE",
        "log-probabilities of the tokens LED draws: engine (of the final posterior) or behaviour "
        "(log q, which trainers on rollouts need) (default: engine)",
    )
    led_think_only: str | None = _flag(
        "BOOL", "explore only while the model thinks: true or false (default: true)"
    )
    led_think_start: str | None = _flag(
        "TEXT", "delimiter that opens the think phase (default: the preset's)"
    )
    led_think_end: str | None = _flag(
        "TEXT", "delimiter that closes the think phase (default: the preset's)"
    )
    led_tool_start: str | None = _flag(
        "TEXT",
        "start of a tool call, which ends an open thought as well; empty: it does not (default: "
        "the preset's, if any)",
    )
    dola_layers: str | None = _flag(
        "LIST", "layers DoLa may contrast with: low, high, numbers, or all (default: low,high)"
    )
    led_aliases: str | None = _flag(
        "GRID",
        "YAML file whose list `samplers` gives settings a name: {name: led, label: wide, params: "
        "{candidates: 20}} is served as MODEL:led-wide; also a shipped grid, such as ablations "
        "(default: none)",
    )
    led_self_check: str | None = _flag(
        "MODE",
        "compare LED's steps with plain torch before the first request: on (torch serves where "
        "they differ), strict (the launch ends) or off (default: on)",
    )

    led_truncation_check: str | None = _flag(
        "MODE",
        "prove the captured layers on the loaded model before the first request, by one short "
        "prefill a layer: on (the launch ends where one is not what the model's own head reads "
        "there) or off (default: on)",
    )
    led_unproven_architecture: str | None = _flag(
        "BOOL",
        "serve an architecture that LED does not know, if that check proves one of its ways to "
        "capture the layers: true, which may be left out, or false (default: false)",
        bare="true",
    )

    @classmethod
    def from_flags(cls, arguments: argparse.Namespace) -> LaunchOptions:
        """Options that a parser with `add_flags` has read.

        Raises:
            LaunchRefused: a value of another type.
        """
        texts = {f.name: getattr(arguments, f.name, None) for f in fields(cls)}
        return cls._typed({name: text for name, text in texts.items() if text is not None})

    @classmethod
    def from_environment(cls) -> LaunchOptions:
        """Options of the environment variable LED_SGLANG.

        Raises:
            LaunchRefused: not a JSON object, an unknown option, or a value of another type.
        """
        text = os.environ.get(ENVIRONMENT_VARIABLE, "")
        if not text.strip():
            return cls()
        where = f"the environment variable {ENVIRONMENT_VARIABLE}"
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise LaunchRefused(f"{where} is not JSON ({error})") from None
        check_keys(given, where, optional=[f.name for f in fields(cls)], error=LaunchRefused)
        return cls._typed({name: v for name, v in given.items() if v is not None}, f"{where}: ")

    @classmethod
    def _typed(cls, given: Mapping[str, Any], where: str = "") -> LaunchOptions:
        kinds = {f.name: f.metadata["kind"] for f in fields(cls)}
        return cls(**{name: _typed(name, v, kinds[name], where) for name, v in given.items()})

    def over(self, weaker: LaunchOptions) -> LaunchOptions:
        """These options, filled up with `weaker` where nothing was given."""
        return replace(weaker, **{k: v for k, v in asdict(self).items() if v is not None})

    def check(self, num_layers: int | None) -> None:
        """Refuse what no model can be served with.

        Args:
            num_layers: of the model; None where they are not known yet.

        Raises:
            LaunchRefused: names the flag and what is allowed.
        """
        self.resolve_samplers()
        self.parse_think_only()
        self.resolve_aliases()
        resolve_self_check(self.led_self_check)
        self.resolve_truncation_check()
        resolve_candidates(self.led_candidates, 1)
        resolve_layers(self.led_layers)
        resolve_logprobs(self.led_logprobs)
        resolve_depth(self.led_depth, 1, num_layers)
        resolve_dola_layers(self.dola_layers, num_layers, tied=False)
        for flag in ("led_think_start", "led_think_end"):
            if getattr(self, flag) == "":
                raise LaunchRefused(f"{flag_of(flag)} is an empty text; name a delimiter")
        if self.led_think_start and self.led_think_start == self.led_think_end:
            raise LaunchRefused(
                "--led-think-start and --led-think-end are the same text; think delimiters differ"
            )
        if self.led_tool_start and self.led_tool_start in (
            self.led_think_start,
            self.led_think_end,
        ):
            raise LaunchRefused(
                "--led-tool-start is the text of a think delimiter; name another, or leave it out"
            )

    def resolve_samplers(self) -> tuple[str, tuple[str, ...]]:
        """Default sampler and everything a request may choose (`regular` always).

        Raises:
            LaunchRefused: a name that is no sampler.
        """
        sampler = "led" if self.sampler is None else self.sampler
        listed = [name.strip() for name in (self.enable_samplers or "").split(",") if name.strip()]
        known = sampler_names()
        for flag, name in [("--sampler", sampler), *(("--enable-samplers", n) for n in listed)]:
            if name not in known:
                raise LaunchRefused(f"{flag} {name!r} is not one of {', '.join(known)}")
        return sampler, tuple(dict.fromkeys([sampler, *listed, "regular"]))

    def parse_think_only(self) -> bool:
        """`--led-think-only`, default true.

        Raises:
            LaunchRefused: neither true nor false.
        """
        return _true_or_false("--led-think-only", self.led_think_only, default=True)

    def resolve_truncation_check(self) -> tuple[str, bool]:
        """What a launch does about the captured layers, and whether it tries unknown architectures.

        Raises:
            LaunchRefused: other values, or such a try without the check.
        """
        check = _one_of(TRUNCATION_CHECKS, "--led-truncation-check", self.led_truncation_check)
        flag = "--led-unproven-architecture"
        unproven = _true_or_false(flag, self.led_unproven_architecture, default=False)
        if unproven and check == "off":
            raise LaunchRefused(
                f"{flag} serves what the truncation check proves; drop --led-truncation-check off, "
                f"or drop {flag}"
            )
        return check, unproven

    def resolve_aliases(self) -> tuple[SamplerSpec, ...]:
        """What `--led-aliases` names.

        Raises:
            LaunchRefused: no such file, or an entry that could not be served.
        """
        if self.led_aliases is None:
            return ()
        return read_aliases(self.led_aliases, self.resolve_samplers()[1])


def flag_of(name: str) -> str:
    """The flag of an option: `led_depth` is typed `--led-depth`."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add LED's flags, each as the text that was typed: `LaunchOptions.from_flags` reads them."""
    group = parser.add_argument_group("Latent Exploration Decoding (led-sglang)")
    for option in fields(LaunchOptions):
        group.add_argument(
            flag_of(option.name),
            dest=option.name,
            metavar=option.metadata["metavar"],
            default=None,
            help=option.metadata["help"],
            **_value(option.metadata["bare"]),
        )


def _value(bare: str | None) -> dict[str, Any]:
    """What a parser is told of a flag that may stand without a value."""
    return {} if bare is None else {"nargs": "?", "const": bare}


def _true_or_false(flag: str, given: str | None, default: bool) -> bool:
    text = str(default).lower() if given is None else given.lower()
    if text not in ("true", "false"):
        raise LaunchRefused(f"{flag} must be true or false, got {text!r}")
    return text == "true"


def _typed(name: str, value: Any, kind: type, where: str) -> Any:
    """A value as its option's type; JSON's own numbers and booleans count as what they show."""
    shown = f"{where}{name if where else flag_of(name)}"
    if isinstance(value, (dict, list)):
        raise LaunchRefused(f"{shown} must be one value, got {json.dumps(value)}")
    text = json.dumps(value) if isinstance(value, (bool, float)) else str(value)
    if kind is str:
        return text
    try:
        return int(text)
    except ValueError:
        raise LaunchRefused(f"{shown} must be a whole number, got {text!r}") from None


def resolve_candidates(given: int | None, preset_candidates: int) -> int:
    """Default number of candidates.

    Raises:
        LaunchRefused: outside 1..64.
    """
    candidates = preset_candidates if given is None else given
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise LaunchRefused(f"--led-candidates {candidates} is outside 1..{MAX_CANDIDATES}")
    return candidates


def resolve_layers(given: str | None) -> str:
    """Default of the request parameter `layers`.

    Raises:
        LaunchRefused: not one of the two presets.
    """
    return _one_of(LAYERS, "--led-layers", given)


def resolve_logprobs(given: str | None) -> str:
    """Default of the request parameter `logprobs`.

    Raises:
        LaunchRefused: neither `engine` nor `behaviour`.
    """
    return _one_of(LOGPROBS, "--led-logprobs", given)


def _one_of(choices: tuple[str, ...], flag: str, given: str | None) -> str:
    """What was given, by default the first of the choices."""
    if given is not None and given not in choices:
        raise LaunchRefused(f"{flag} {given!r} is not one of {', '.join(choices)}")
    return given or choices[0]


def resolve_self_check(given: str | None) -> str:
    """What a launch does about the self-check.

    Raises:
        LaunchRefused: not one of the three.
    """
    mode = SELF_CHECKS[0] if given is None else given
    if mode not in SELF_CHECKS:
        raise LaunchRefused(f"--led-self-check {mode!r} is not one of {', '.join(SELF_CHECKS)}")
    return mode
