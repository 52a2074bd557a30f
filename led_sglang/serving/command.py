"""`led-sglang serve`: check, choose a platform, start SGLang."""

from __future__ import annotations

import argparse
import os
import sys
from math import prod

from led_sglang.common.terminal import FAILED, ended_at_once
from led_sglang.launch_options import ENVIRONMENT_VARIABLE, LaunchOptions
from led_sglang.patches.cpu.platform import PLATFORM_NAME, thread_binding
from led_sglang.serving.arguments import normalised, parser, read
from led_sglang.serving.preflight import check_address, check_launched_model
from led_sglang.settings import LaunchRefused

_QUESTION = "What is 2 + 3?"


def serve(argv: list[str]) -> int:
    """Launch the server; blocks until it ends.

    Returns:
        The exit status: 2, with one sentence, when the launch is refused.
    """
    if "-h" in argv or "--help" in argv:
        print(parser().format_help(), end="")
        return 0
    try:
        if "--help-sglang" in argv:
            _launch(["--help"])
        else:
            _serve(normalised(argv))
    except LaunchRefused as error:
        print(f"led-sglang: {error}", file=sys.stderr)
        return FAILED
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        print(error.code, file=sys.stderr)
        return FAILED
    return 0


def _serve(argv: list[str]) -> None:
    from led_sglang.patches.quiet import ask_for_quiet
    from led_sglang.serving.ready import Address, announce_when_ready

    given = read(argv)
    port = check_address(given.host, given.port)
    options = LaunchOptions.from_flags(given).over(LaunchOptions.from_environment())
    options.check(None)
    question = _QUESTION
    if given.model_path is None:
        given.model_path, question = _bundled_model()
        argv = [*argv, "--model-path", given.model_path]
    options.check(check_launched_model(given))
    argv = _with_platform(argv, given)
    if given.log_level is None:
        argv = [*argv, "--log-level", "warning"]
        ask_for_quiet(without_gpu=os.environ.get("SGLANG_PLATFORM") == PLATFORM_NAME)
    address = Address(given.host, port, bool(given.ssl_certfile), given.api_key)
    print(
        f"led-sglang: starting on {address.url}; importing SGLang and loading the model takes half "
        "a minute or more",
        file=sys.stderr,
        flush=True,
    )
    announce_when_ready(address, question, given.node_rank)
    _launch(argv)


def _launch(argv: list[str]) -> None:
    # The default of this command; a flag or a --config file still decides.
    os.environ.setdefault(ENVIRONMENT_VARIABLE, '{"sampler": "led"}')

    with ended_at_once():
        from led_sglang.patches.launch import launch

    launch(argv)


def _bundled_model() -> tuple[str, str]:
    """Its folder and a question it knows."""
    from led_sglang.models.bundled import EXAMPLE, bundled_model

    path = bundled_model()
    print(
        "led-sglang: no --model-path given: serving the bundled model, a tiny reasoner that finds "
        f"walks through seven rooms ({path})",
        file=sys.stderr,
        flush=True,
    )
    return str(path), EXAMPLE


def _with_platform(argv: list[str], given: argparse.Namespace) -> list[str]:
    """Choose the CPU platform where no accelerator is found or --device cpu says so."""
    chosen = os.environ.get("SGLANG_PLATFORM")
    if chosen not in (None, PLATFORM_NAME) or (given.device != "cpu" and _has_accelerator()):
        return argv
    if given.device not in (None, "cpu"):
        raise LaunchRefused(
            f"--device {given.device} was asked for, but no accelerator is found here"
        )
    os.environ["SGLANG_PLATFORM"] = PLATFORM_NAME
    ranks = prod(int(size) for size in (given.tp, given.pp) if size and size.isdecimal())
    if ranks > 1:
        os.environ.setdefault("SGLANG_CPU_OMP_THREADS_BIND", thread_binding(ranks))
    return argv if given.device else [*argv, "--device", "cpu"]


def _has_accelerator() -> bool:
    with ended_at_once():
        import torch

    return torch.accelerator.is_available()
