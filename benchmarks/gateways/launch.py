"""The gateways that are tried, each in front of the same servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml

from led_sglang.common.server_process import die_with_parent, free_port

_START_TIMEOUT_S = 120
_REGISTER = Path(__file__).parents[2] / "deploy" / "register_names.py"
# LiteLLM wants a key for the servers it asks, and one for its own clients unless told otherwise.
_KEY = "none"
_ENVIRONMENT = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}


def smg(program: str, workers: Sequence[str], name: str, port: int, folder: Path) -> list[str]:
    """Shepherd Model Gateway, `smg` of the package of this name."""
    return [program, "launch", *_sglang_flags(workers, port)]


def sglang_router(
    program: str, workers: Sequence[str], name: str, port: int, folder: Path
) -> list[str]:
    """SGLang's former router: `python` of where the package sglang-router is installed."""
    return [program, "-m", "sglang_router.launch_router", *_sglang_flags(workers, port)]


def _sglang_flags(workers: Sequence[str], port: int) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    return [*flags, "--prometheus-port", str(free_port()), "--worker-urls", *workers]


def litellm(program: str, workers: Sequence[str], name: str, port: int, folder: Path) -> list[str]:
    """LiteLLM's proxy, which passes on every model name."""
    servers = [
        {
            "model_name": "*",
            "litellm_params": {"model": "openai/*", "api_base": f"{url}/v1", "api_key": _KEY},
        }
        for url in workers
    ]
    config = folder / "litellm.yaml"
    config.write_text(yaml.safe_dump({"model_list": servers}))
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def nginx(program: str, workers: Sequence[str], name: str, port: int, folder: Path) -> list[str]:
    """nginx as a plain reverse proxy."""
    upstream = "".join(f"server {url.removeprefix('http://')};" for url in workers)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; error_log stderr; pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/bodies;\n"
        f"  upstream led {{ {upstream} }}\n"
        f"  server {{ listen 127.0.0.1:{port};\n"
        "    location / { proxy_pass http://led; proxy_buffering off; proxy_read_timeout 3600s; }\n"
        "  }\n}\n"
    )
    return [program, "-c", str(config)]


Command = Callable[[str, Sequence[str], str, int, Path], list[str]]
GATEWAYS: dict[str, Command] = {
    "smg": smg,
    # The servers' other names are registered once it runs.
    "smg-names": smg,
    "sglang-router": sglang_router,
    "litellm": litellm,
    "nginx": nginx,
}


@contextmanager
def running(
    gateway: str, program: str, workers: Sequence[str], name: str, folder: Path
) -> Iterator[str]:
    """A gateway in front of some servers.

    Args:
        gateway: a key of `GATEWAYS`.
        program: what runs it.
        workers: base URLs of the servers.
        name: under which they serve their model.
        folder: for its configuration and its log.

    Yields:
        Its base URL, once it answers a completion.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    port = free_port()
    command = GATEWAYS[gateway](program, workers, name, port, folder)
    log = folder / f"{gateway}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=os.environ | _ENVIRONMENT,
            preexec_fn=die_with_parent,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, name, log)
        if gateway == "smg-names":
            subprocess.run([sys.executable, str(_REGISTER), url, *workers], check=True)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    body = {"model": name, "prompt": "a", "max_tokens": 1}
    deadline = time.monotonic() + _START_TIMEOUT_S
    answer = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            response = requests.post(f"{url}/v1/completions", json=body, timeout=30)
            if response.status_code == requests.codes.ok:
                return
            answer = response.text
        except requests.RequestException as error:
            answer = str(error)
        time.sleep(1)
    raise RuntimeError(f"{log.stem} does not answer ({answer[:300]}); its log: {log}")
