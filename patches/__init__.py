"""The only code that touches SGLang internals.

`touched.py` lists every symbol; the other files hold the hooks by what they are for: launch
(`launch`, `server_args`, `compatibility`, `refusal`, `http_worker`), captured layers (`capture`,
`setters`, `stream_capture`, `captured_streams`, `graph_buffer`) and their proof (`proven_capture`,
`truncation`, `short_prefill`), per-row state (`batch_state`), soft inputs (`embedding`), what a
step needs of the loaded model, its ranks and stages (`binding`, `lm_head`, `kernel_path`, `ranks`,
`stages`), how that is checked (`self_check`, `first_streams`), the sampling step
(`methods_at_work`, `batch_step`, `sampling`), the verification of drafts (`speculation`), requests
(`http_bodies`, `model_names`, `requests`, `guards`, `grammars`, `stop_regex`), what an answer says
of itself (`answers`), statistics (`statistics`, `metrics`), prefill/decode pairs (`pair_settings`,
`first_token`), and weights that come while a server runs (`weight_updates`, `adapters`).
"""

from __future__ import annotations

import logging
import os
import sys

from led_sglang.launch_options import ENVIRONMENT_VARIABLE
from led_sglang.patches import hooks
from led_sglang.patches.touched import LAUNCH, SERVING, TOUCHED, Symbol, complaint, missing
from led_sglang.settings import LaunchRefused

__all__ = ["TOUCHED", "Symbol", "check_symbols", "enable", "install", "verify"]

logger = logging.getLogger(__name__)

# Set by the launching process once LED is wanted; its children install every hook at start.
_ENABLED_VARIABLE = "LED_SGLANG_ENABLED"


def check_symbols() -> None:
    """Compare every touched symbol and signature with the installed SGLang.

    Raises:
        LaunchRefused: names the SGLang version, each symbol and what changed.
    """
    problems = missing(TOUCHED)
    if problems:
        raise LaunchRefused(complaint(problems))


def install() -> None:
    """Install the launch hooks and, in the children of a launch that wants LED, all of them.

    Raises:
        SystemExit: LED is asked for, but this SGLang cannot carry it.
    """
    from led_sglang.patches.quiet import quieten

    quieten()
    enabled = os.environ.get(_ENABLED_VARIABLE) == "1"
    problems = missing(LAUNCH)
    if problems:
        if enabled or _asked_for_on_the_command_line():
            raise SystemExit(complaint(problems))
        logger.warning("LED stays off: %s", complaint(problems))
        return
    from led_sglang.patches import server_args

    server_args.register()
    hooks.apply(LAUNCH)
    if enabled:
        try:
            enable()
        except LaunchRefused as error:
            raise SystemExit(str(error)) from None


def enable() -> None:
    """Check all symbols and apply all hooks, in this process and in the ones it starts.

    Raises:
        LaunchRefused: a symbol has moved, or SGLang did not apply a hook.
    """
    check_symbols()
    # importing a module declares its hooks
    from led_sglang.patches import (  # noqa: F401
        adapters,
        answers,
        batch_state,
        capture,
        embedding,
        first_token,
        grammars,
        graph_buffer,
        guards,
        http_bodies,
        model_names,
        pair_settings,
        proven_capture,
        ranks,
        requests,
        sampling,
        speculation,
        stages,
        statistics,
        stop_regex,
        weight_updates,
    )

    hooks.apply(SERVING)
    verify()
    _extend_the_application()
    os.environ[_ENABLED_VARIABLE] = "1"


def _extend_the_application() -> None:
    """Add to SGLang's HTTP application, once, before it serves."""
    from sglang.srt.entrypoints.http_server import app

    from led_sglang.patches.answers import SamplerHeader
    from led_sglang.patches.model_names import serve_names

    if not any(middleware.cls is SamplerHeader for middleware in app.user_middleware):
        app.add_middleware(SamplerHeader)
        serve_names(app)


def verify() -> None:
    """Check that every touched symbol is in place and every hook applied.

    Raises:
        LaunchRefused: names the SGLang version and each symbol concerned.
    """
    problems = missing(TOUCHED) + hooks.unapplied()
    if problems:
        raise LaunchRefused(complaint(problems))


def _asked_for_on_the_command_line() -> bool:
    flags = ("--sampler", "--led-", "--sampling-backend=led")
    return bool(os.environ.get(ENVIRONMENT_VARIABLE)) or any(
        argument == "led" or argument.startswith(flags) for argument in sys.argv
    )
