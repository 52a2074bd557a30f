"""What of a server decides the numbers of a run, from SGLang's `/server_info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from led_sglang.common.address import first_state

_KEYS = (
    *("version", "model_path", "revision", "dtype", "quantization", "kv_cache_dtype", "tp_size"),
    *("dp_size", "context_length", "attention_backend", "sampling_backend"),
    *("enable_deterministic_inference", "reasoning_parser", "chat_template"),
)
# Of LED's settings: what else a server offers changes no number.
_NO_MATTER = ("enabled", "captured_layers")
# A server of another kind, or one behind a gateway that does not pass `/server_info` on.
UNKNOWN: dict[str, Any] = {**dict.fromkeys(_KEYS), "led": None, "machine": {}}


def described(info: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the server; `led` holds LED's settings, None where it has none.

    `machine` says how it was started and on what, as far as it tells.
    """
    led = first_state(info).get("led") or {}
    found = {key: info.get(key) for key in _KEYS}
    return {**found, "led": led.get("settings"), "machine": led.get("machine") or {}}


def is_sglang(server: Mapping[str, Any]) -> bool:
    """Whether the server is known to be SGLang; `server` as `described` makes it."""
    return server.get("version") is not None


def fingerprint(server: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change within a run; `server` as `described` makes it.

    The run may go on where another sampler was enabled.
    """
    led = server["led"]
    if led is not None:
        led = {key: value for key, value in led.items() if key not in _NO_MATTER}
    return {**{key: value for key, value in server.items() if key != "machine"}, "led": led}
