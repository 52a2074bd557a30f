"""The command line of `led-sglang serve`, read before SGLang is imported.

SGLang's parser reads it again, with all of its own flags; here only LED's flags are known and those
of SGLang that something is checked of.
"""

from __future__ import annotations

import argparse
import difflib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from led_sglang.common.flags import Parser
from led_sglang.common.user_files import parse_yaml
from led_sglang.launch_options import LaunchOptions, add_flags, flag_of
from led_sglang.methods.tables import keys
from led_sglang.settings import LaunchRefused

# SGLang's own defaults, compared with them in tests/unit/test_serving.py.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 30_000
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
# No flag of SGLang begins like this, or is as close to one of LED's.
_OWN_PREFIXES = ("led", "dola")
_CLOSE = 0.85
_TEXTS = (
    *("tokenizer-path", "revision", "load-format", "device", "api-key", "ssl-certfile"),
    "config",
)


class _Parser(Parser):
    """One whose errors can be caught."""

    def error(self, message: str) -> NoReturn:
        raise LaunchRefused(f"{message}; `led-sglang serve --help` lists LED's flags")


def parser() -> argparse.ArgumentParser:
    """LED's flags and the few of SGLang's that are looked at; texts all of them."""
    result = _Parser(
        prog="led-sglang serve",
        usage="led-sglang serve [MODEL] [LED's flags] [any flag of `sglang serve`, also "
        "--config FILE.yaml]",
        description="Serve a model over SGLang's OpenAI-compatible API with Latent Exploration "
        "Decoding. Without a model, a tiny bundled one is served. Without an accelerator, or with "
        "--device cpu, the server runs on native PyTorch.",
        epilog="a request's own settings, in custom_params.METHOD; docs/methods.md explains them:\n"
        f"{textwrap.indent(keys(), '  ')}\n\n"
        "Example: led-sglang serve Qwen/Qwen3-4B-Thinking-2507 --port 30000",
        add_help=False,
    )
    add_flags(result)
    sglang = result.add_argument_group("SGLang's")
    sglang.add_argument(
        "--help-sglang", action="store_true", help="show SGLang's own flags too, and no more"
    )
    sglang.add_argument(
        "--host", default=DEFAULT_HOST, help="address to serve (default: %(default)s)"
    )
    sglang.add_argument("--port", default=str(DEFAULT_PORT), help="and port (default: %(default)s)")
    sglang.add_argument(
        "--log-level", help="info shows all that SGLang logs, each request too (default: warning)"
    )
    hidden: dict[str, Any] = {"help": argparse.SUPPRESS}
    sglang.add_argument("--model-path", "--model", **hidden)
    sglang.add_argument("--tensor-parallel-size", "--tp-size", "--tp", dest="tp", **hidden)
    sglang.add_argument("--pipeline-parallel-size", "--pp-size", dest="pp", **hidden)
    sglang.add_argument("--node-rank", default="0", **hidden)
    for flag in _TEXTS:
        sglang.add_argument(f"--{flag}", **hidden)
    # In a --config file it has a value.
    sglang.add_argument("--skip-tokenizer-init", nargs="?", const="true", **hidden)
    return result


def read(argv: Sequence[str]) -> argparse.Namespace:
    """What `argv` says, its --config file included; a flag wins over the file.

    Raises:
        LaunchRefused: a flag of LED that does not exist or lacks its value, or a --config file that
            SGLang could not read.
    """
    known, unknown = parser().parse_known_args([*_configured(argv), *argv])
    own = [flag_of(option.name) for option in fields(LaunchOptions)]
    for flag in (argument.partition("=")[0] for argument in unknown if argument.startswith("-")):
        typed = flag.lower().replace("_", "-")
        begins = typed.lstrip("-").startswith(_OWN_PREFIXES)
        close = difflib.get_close_matches(typed, own, n=1, cutoff=0.6 if begins else _CLOSE)
        if begins or close:
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(own)}"
            raise LaunchRefused(f"{flag} is no flag of led-sglang{hint}")
    if known.log_level is not None and known.log_level.lower() not in _LOG_LEVELS:
        raise LaunchRefused(
            f"--log-level must be one of {', '.join(_LOG_LEVELS)}, got {known.log_level!r}"
        )
    return known


def normalised(argv: Sequence[str]) -> list[str]:
    """`argv` as SGLang takes it: a model named first has its flag, --config its file behind it."""
    result = list(argv)
    if result and not result[0].startswith("-"):  # as in `sglang serve MODEL`
        result = ["--model-path", *result]
    for position, argument in enumerate(result):
        if argument.startswith("--config="):  # SGLang would accept it and read nothing
            result[position : position + 1] = argument.split("=", 1)
    return result


def _configured(argv: Sequence[str]) -> list[str]:
    """The --config file as flags, as SGLang makes them; none without a file."""
    places = [position for position, argument in enumerate(argv) if argument == "--config"]
    if not places:
        return []
    if len(places) > 1:
        raise LaunchRefused("--config is given twice; SGLang reads one file")
    name = next(iter(argv[places[0] + 1 : places[0] + 2]), "")
    if not name or name.startswith("--"):
        raise LaunchRefused("--config needs a YAML file behind it")
    flags = []
    for key, value in _read_config(Path(name)).items():
        if isinstance(value, bool | dict):
            value = json.dumps(value)
        if isinstance(value, list):
            text = ",".join(map(str, value))
            if not parser().parse_known_args([f"--{key}=x"])[1]:  # a flag that is looked at here
                raise LaunchRefused(
                    f"{key} in --config {name} is a list; write one text, such as {key}: {text}"
                )
            value = text
        flags.append(f"--{key}={value}")
    return flags


def _read_config(path: Path) -> dict[Any, Any]:
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise LaunchRefused(f"--config {path} is no YAML file: its name must end in .yaml or .yml")
    try:
        content = parse_yaml(path.read_bytes(), f"--config {path}", LaunchRefused)
    except FileNotFoundError:
        raise LaunchRefused(f"--config {path} does not exist") from None
    except OSError as error:
        raise LaunchRefused(f"--config {path} cannot be read ({error.strerror})") from None
    if content is not None and not isinstance(content, dict):
        raise LaunchRefused(f"--config {path} must hold `flag: value` lines, such as `port: 30000`")
    return content or {}
