"""What would end a launch after minutes, found out in seconds: the model's name, host and port."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from pathlib import Path
from typing import Any

from led_sglang.common.ports import port_holder
from led_sglang.common.threads import start
from led_sglang.serving.model_folder import check_tokenizer_files, check_weights, read_config
from led_sglang.settings import LaunchRefused

# Of all a look-up in the network may take; a name server may hang for longer than anyone waits.
_LOOK_UP_S = 2.0
_HUB = "https://huggingface.co"
# What the hub says in X-Error-Code when the whole repository cannot be had.
_NOT_TO_BE_HAD = ("RepoNotFound", "GatedRepo", "RevisionNotFound")


def check_launched_model(given: argparse.Namespace) -> int | None:
    """Refuse a model or a tokenizer that is neither a whole folder nor to be had from the hub.

    Returns:
        The number of the model's layers, None where it cannot be told yet.

    Raises:
        LaunchRefused: names the path or the name, and the way out.
    """
    if given.tokenizer_path:
        _check_tokenizer(given.tokenizer_path, given.revision)
    return _check_model(
        given.model_path,
        given.revision,
        weights=given.load_format in (None, "auto"),
        tokenizer=not given.tokenizer_path and given.skip_tokenizer_init != "true",
    )


def _check_model(name: str, revision: str | None, weights: bool, tokenizer: bool) -> int | None:
    """The number of its layers; `weights`, `tokenizer`: whether its folder must have them."""
    path = Path(name).expanduser()
    if not name.strip():
        raise LaunchRefused("--model-path is empty; name a folder or a model of the hub")
    if _is_elsewhere("--model-path", name):
        return None
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return None
        raise LaunchRefused(f"--model-path {name} is a file; name the folder that holds a model")
    if path.is_dir():
        if (path / "config.json").exists():
            config = read_config(path / "config.json")
            if weights:
                check_weights(path)
            if tokenizer:
                check_tokenizer_files(path)
            return _layers(config)
        if (path / "params.json").exists() or any(path.glob("*.gguf")):
            return None
        raise LaunchRefused(
            f"--model-path {name} holds no config.json; name a folder that a model was saved to"
        )
    if _is_path(name):
        raise LaunchRefused(
            f"--model-path {name} does not exist; name a folder that holds a model, or one of the "
            "hub, such as Qwen/Qwen3-0.6B"
        )
    cached = _check_hub("--model-path", name, revision, "config.json")
    return _layers(read_config(Path(cached))) if cached else None


def _check_tokenizer(name: str, revision: str | None) -> None:
    path = Path(name).expanduser()
    if _is_elsewhere("--tokenizer-path", name) or path.is_file():
        return
    if path.is_dir():
        check_tokenizer_files(path)
    elif _is_path(name):
        raise LaunchRefused(f"--tokenizer-path {name} does not exist")
    else:
        _check_hub("--tokenizer-path", name, revision, "tokenizer_config.json")


def _is_elsewhere(flag: str, name: str) -> bool:
    """Whether a name is one of an object store, which is SGLang's business."""
    if name.startswith(("http:", "https:", "file:", "hf:")):
        raise LaunchRefused(
            f"{flag} {name} is an address; name a folder, or a model of the hub as OWNER/NAME"
        )
    return "://" in name


def check_address(host: str, port: str) -> int:
    """Refuse a host and port that this process could not serve on.

    Returns:
        The port.

    Raises:
        LaunchRefused: names the cause and, where it can be told, who holds the port.
    """
    if not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise LaunchRefused(f"--port must be a whole number in 1..65535, got {port!r}")
    number = int(port)
    try:
        # As the server will: an empty host means every address.
        found = start(
            lambda: socket.getaddrinfo(
                host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ).result(_LOOK_UP_S)
    except (OSError, UnicodeError, TimeoutError):
        raise LaunchRefused(
            f"--host {host} is no address of this machine: its name cannot be resolved; 0.0.0.0 "
            "serves on every address"
        ) from None
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise LaunchRefused(_why_not(error, host, number)) from None
    return number


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use{port_holder(port)}; choose another with --port, or end what "
            "uses it"
        )
    if error.errno == errno.EACCES:
        return f"port {port} is reserved for the system; choose one from 1024 up with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine; 0.0.0.0 serves on every address"
    return f"--host {host} --port {port} cannot be served on ({error.strerror})"


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: the hub's are NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _layers(config: dict[str, Any]) -> int | None:
    """Layers of the (language) model of a configuration."""
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("num_hidden_layers")
    return found if isinstance(found, int) and found > 0 else None


def _check_hub(flag: str, name: str, revision: str | None, file: str) -> str | None:
    """The cached file of a model of the hub; None where it will be downloaded."""
    import huggingface_hub
    import requests
    from huggingface_hub.utils import build_hf_headers

    if os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return None
    # Two forms of GGUF files on the hub: OWNER/NAME:QUANTISATION and OWNER/NAME/FILE.gguf.
    if ":" in name or name.endswith(".gguf"):
        return None
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
    except huggingface_hub.errors.HFValidationError:
        raise LaunchRefused(
            f"{flag} {name!r} is neither a folder here nor a name of the hub (OWNER/NAME)"
        ) from None
    if isinstance(cached, str):
        return cached
    way_out = "name a folder that holds a model, or download it where there is network"
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise LaunchRefused(
            f"{flag} {name} is no folder here and not in the hub's cache, and HF_HUB_OFFLINE "
            f"is set; {way_out}"
        )
    endpoint = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
    url = f"{endpoint}/{name}/resolve/{revision or 'main'}/{file}"

    def head() -> requests.Response:
        limits = (_LOOK_UP_S, _LOOK_UP_S)
        return requests.head(url, headers=build_hf_headers(), timeout=limits, allow_redirects=False)

    try:
        answer = start(head).result(_LOOK_UP_S)
    except requests.ReadTimeout:  # slow, but there
        return None
    except (requests.RequestException, TimeoutError):
        raise LaunchRefused(
            f"{flag} {name} is no folder here and not in the hub's cache, and {endpoint} "
            f"cannot be reached; {way_out}"
        ) from None
    if answer.headers.get("X-Error-Code") in _NOT_TO_BE_HAD or answer.status_code == 401:
        raise LaunchRefused(
            f"{flag} {name} is no folder here, and {endpoint} gives out no such model "
            f"(HTTP {answer.status_code}); check the name, and HF_TOKEN for a private or gated one"
        )
    return None
