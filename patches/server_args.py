"""Launch: flags, validation, refusals, and what LED declares to SGLang's configuration."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

from led_sglang.launch_layers import (
    dola_layers_of_last_stage,
    latent_layers,
    resolve_depth,
    resolve_dola_layers,
)
from led_sglang.launch_options import (
    LaunchOptions,
    add_flags,
    resolve_candidates,
    resolve_layers,
    resolve_logprobs,
    resolve_self_check,
)
from led_sglang.methods.model_names import check_aliases
from led_sglang.methods.soft_thinking.params import uses_soft
from led_sglang.patches import hooks
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import publish_settings, settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.touched import SERVING
from led_sglang.presets import Preset, pick_preset
from led_sglang.settings import LaunchRefused, ServerSettings

BACKEND = "led"
# Bookkeeping attribute of ServerArgs: no field, and pickled to every child process.
_OPTIONS_ATTRIBUTE = "_led_options"

_NONE: tuple[int, ...] = ()
# Names the application that extra HTTP workers load.
_APP_VARIABLE = "SGLANG_HTTP_SERVER_APP_PATH"

_STEPS_THAT_RESET_THE_BACKEND = (
    "handle_cpu_backends",
    "handle_hpu_backends",
    "handle_npu_backends",
    "handle_deterministic_inference",
)


def register() -> None:
    """Register the sampler backend and the resolution hooks (SGLang's official calls)."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook
    from sglang.srt.layers.sampler import _CUSTOM_SAMPLER_FACTORIES, register_sampler_backend

    if BACKEND in _CUSTOM_SAMPLER_FACTORIES:
        return
    register_sampler_backend(BACKEND, _create_sampler)
    for step in _STEPS_THAT_RESET_THE_BACKEND:
        register_resolution_hook(step)(_keep_backend)
    register_resolution_hook("handle_other_validations")(_resolve)


def _create_sampler() -> Any:
    from led_sglang import patches
    from led_sglang.patches.sampling import LedSampler

    patches.verify()
    if settings_or_none() is None:
        raise LaunchRefused(
            "led-sglang was not configured at launch: SGLang did not run the resolution step "
            "handle_other_validations"
        )
    return LedSampler()


@hook("server_args.ServerArgs.add_cli_args", "AFTER")
def _add_flags(result: Any, parser: argparse.ArgumentParser) -> None:
    add_flags(parser)


@hook("server_args.ServerArgs.from_cli_args", "AROUND")
def _read_flags(original: Any, cls: type, args: argparse.Namespace) -> Any:
    with ending_with_a_sentence():
        options = LaunchOptions.from_flags(args).over(LaunchOptions.from_environment())
        if options != LaunchOptions():
            if args.sampling_backend not in (None, BACKEND):
                raise LaunchRefused(
                    f"--sampling-backend {args.sampling_backend} cannot carry LED; drop it, or "
                    "drop --sampler and the --led flags"
                )
            args.sampling_backend = BACKEND
    server_args = original(cls, args)
    setattr(server_args, _OPTIONS_ATTRIBUTE, options)
    return server_args


def _keep_backend(server_args: Any, previous: Any) -> None:
    """SGLang resets the sampling backend in these steps: declare it again.

    LED's sampler delegates to the backend that SGLang would have chosen.
    """
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    wanted = resolving_view(server_args).sampling_backend == BACKEND
    previous(server_args)
    if wanted:
        declare_resolution(server_args, BACKEND, sampling_backend=BACKEND)


def _resolve(server_args: Any, previous: Any) -> None:
    from sglang.srt.arg_groups.overrides import resolving_view

    previous(server_args)
    cfg = resolving_view(server_args)
    options = getattr(server_args, _OPTIONS_ATTRIBUTE, None)
    if cfg.sampling_backend != BACKEND:
        if options is not None:  # it will serve HTTP
            from led_sglang.patches import inactive  # noqa: F401

            hooks.apply(SERVING)
        return
    if options is None:  # no command line: sgl.Engine
        _enable(server_args, cfg, LaunchOptions.from_environment())
    else:
        with ending_with_a_sentence():
            _enable(server_args, cfg, options)


def _enable(server_args: Any, cfg: Any, options: LaunchOptions) -> None:
    from led_sglang import patches
    from led_sglang.banner import print_banner

    patches.enable()
    settings, preset, notices = resolve_settings(server_args, cfg, options)
    publish_settings(server_args, settings)
    _declare_capture(server_args, settings, drafts=cfg.speculative_algorithm is not None)
    if cfg.tokenizer_worker_num > 1:
        _load_plugins_in_http_workers()
    total = len(hooks.declared())
    print_banner(settings, preset, notices, (total - len(hooks.unapplied()), total))


def _load_plugins_in_http_workers() -> None:
    """SGLang's extra HTTP workers load no plugins: have them load an app that does."""
    app = "led_sglang.patches.http_worker:app"
    found = os.environ.setdefault(_APP_VARIABLE, app)
    if found != app:
        raise LaunchRefused(
            f"LED needs the environment variable {_APP_VARIABLE} for itself with "
            f"--tokenizer-worker-num > 1, and it is set to {found!r}; unset it, or serve with one "
            "tokenizer worker"
        )


def resolve_settings(
    server_args: Any, cfg: Any, options: LaunchOptions
) -> tuple[ServerSettings, Preset, list[str]]:
    """Settings from the flags, the model's preset and its tokenizer; and notices to print.

    Raises:
        LaunchRefused: something LED cannot run with; says what to change.
    """
    from sglang.srt.arg_groups.model_override_base import model_config_of

    from led_sglang.delimiters import as_spelled
    from led_sglang.patches.capture import UNPROVEN_METHODS, known_architecture
    from led_sglang.patches.compatibility import refuse_incompatible, refuse_incompatible_with_soft
    from led_sglang.patches.families import CAPTURES
    from led_sglang.patches.model_names import refuse_clashing_names
    from led_sglang.patches.speculation.launch import (
        refuse_another_vocabulary,
        refuse_inexact_speculation,
    )
    from led_sglang.patches.stages import stage_start

    sampler, enabled = options.resolve_samplers()
    think_only = options.parse_think_only()
    truncation_check, try_unknown = options.resolve_truncation_check()
    model_config = model_config_of(server_args)
    text_config = model_config.hf_text_config
    preset = pick_preset(text_config.model_type, f"{cfg.model_path} {cfg.served_model_name or ''}")
    num_layers = int(text_config.num_hidden_layers)
    tied = bool(getattr(text_config, "tie_word_embeddings", False))
    uses_led, uses_dola = "led" in enabled, "dola" in enabled
    notices: list[str] = []
    if set(enabled) != {"regular"}:
        refuse_incompatible(cfg)
        speculation = refuse_inexact_speculation(cfg, enabled)
        notices += [speculation] if speculation else []
        refuse_another_vocabulary(cfg, model_config.vocab_size)
    if uses_soft(enabled):
        refuse_incompatible_with_soft(cfg)
    first_layer = stage_start(num_layers, cfg.pp_size)
    depth, depth_notice = resolve_depth(options.led_depth, preset.depth, num_layers, first_layer)
    dola_layers: tuple[int, ...] = ()
    dola_notice: str | None = None
    if uses_dola:
        dola_layers, dola_notice = dola_layers_of_last_stage(
            options.dola_layers,
            resolve_dola_layers(options.dola_layers, num_layers, tied),
            first_layer,
        )
    notices += [notice for notice in (depth_notice, dola_notice) if notice]
    architecture = ""
    if uses_led or uses_dola:
        names = list(model_config.hf_config.architectures or [])
        architecture = known_architecture(names, try_unknown)
        row = CAPTURES.get(architecture)
        if row is None and cfg.pp_size > 1:
            raise LaunchRefused(
                f"{architecture} is not in LED's table, and ways to capture its layers cannot be "
                "tried on pipeline stages; drop --pp-size (--tp divides the model as well)"
            )
        if row is None:
            ways = ", ".join(UNPROVEN_METHODS)
            notices.append(
                f"{architecture} is not in LED's table: {ways} are tried on the loaded model"
            )
        elif row.note:
            notices.append(f"{architecture} is not proven: {row.note}")
    start = end = tool = boundaries = _NONE
    if (uses_led and think_only) or uses_soft(enabled):
        tokenizer = _tokenizer(cfg)
        preset = preset.with_texts(partial(as_spelled, tokenizer))
        start, end, tool, boundaries = _delimiters(tokenizer, options, preset, notices)
    settings = ServerSettings(
        sampler=sampler,
        enabled=enabled,
        depth=depth,
        candidates=resolve_candidates(options.led_candidates, preset.candidates),
        layers=resolve_layers(options.led_layers),
        logprobs=resolve_logprobs(options.led_logprobs),
        think_only=think_only,
        architecture=architecture,
        num_layers=num_layers,
        latent_layers=latent_layers(num_layers, depth) if uses_led else (),
        dola_layers=dola_layers,
        tied_embeddings=tied,
        preset=preset.name,
        think_start=options.led_think_start or preset.think_start,
        think_end=options.led_think_end or preset.think_end,
        think_start_ids=start,
        think_end_ids=end,
        boundary_ids=boundaries,
        tool_start=(options.led_tool_start or preset.tool_start) if tool else "",
        tool_start_ids=tool,
        stage_start=first_layer,
        aliases=options.resolve_aliases(),
        self_check=resolve_self_check(options.led_self_check),
        truncation_check=truncation_check,
        unproven=bool(architecture) and architecture not in CAPTURES,
    )
    refuse_clashing_names(cfg, settings)
    check_aliases(settings)
    return settings, preset, notices


def _tokenizer(cfg: Any) -> Any:
    from sglang.srt.utils.hf_transformers import get_tokenizer

    return get_tokenizer(
        cfg.tokenizer_path or cfg.model_path,
        tokenizer_mode=cfg.tokenizer_mode,
        trust_remote_code=cfg.trust_remote_code,
        tokenizer_revision=cfg.revision,
    )


def _delimiters(
    tokenizer: Any, options: LaunchOptions, preset: Preset, notices: list[str]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Token ids of both think delimiters and of the tool start, and those that part turns.

    A preset's tool start that the tokenizer or the user's delimiters do not allow is left out, with
    a notice: a model without it calls no tools so.
    """
    from led_sglang.delimiters import boundary_ids, resolve_delimiters, resolve_tool_start
    from led_sglang.phase import ThinkAutomaton

    named = options.led_tool_start
    tool_text = preset.tool_start if named is None else named
    try:
        start, end = resolve_delimiters(
            tokenizer,
            options.led_think_start or preset.think_start,
            options.led_think_end or preset.think_end,
            named_by_user=bool(options.led_think_start or options.led_think_end),
        )
        ThinkAutomaton(start, end)
    except ValueError as error:
        raise LaunchRefused(str(error)) from None
    try:
        tool = resolve_tool_start(tokenizer, tool_text)
        ThinkAutomaton(start, end, tool_start=tool)
    except ValueError as error:
        if named is not None:
            raise LaunchRefused(f"--led-tool-start {tool_text!r} does not do: {error}") from None
        tool = ()
        notices.append(f"a tool call does not end an open thought: {error}")
    return start, end, tool, tuple(sorted(boundary_ids(tokenizer)))


def _declare_capture(server_args: Any, settings: ServerSettings, *, drafts: bool) -> None:
    """SGLang's capture-only mode: `hidden_states` becomes [rows, C*H], deepest layer first.

    Beside `drafts` SGLang takes no layers from here, and would ask for them of a drafter too
    (`speculation.streams` names them); the mode keeps the last hidden states for the drafter.
    """
    from sglang.srt.arg_groups.overrides import declare_resolution

    if not settings.captured:
        return
    declare_resolution(
        server_args,
        BACKEND,
        # The AROUND hook on configure_aux_hidden_state_capture picks the model's own setter.
        aux_hidden_state_capture="dflash",
        # The id of a layer names its output: h^l leaves layer l - 1 (0-based).
        return_aux_hidden_state_layer_ids=(
            None if drafts else [layer - 1 for layer in settings.captured]
        ),
        return_hidden_states_mode="last",
    )
