from __future__ import annotations

import pytest

from led_sglang.cli import main
from led_sglang.common.server_process import free_port


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """A launch that must end with one sentence before SGLang or torch is asked for anything."""

    def too_late(*_: object) -> None:
        raise AssertionError("not refused before a platform is chosen")

    monkeypatch.setattr("led_sglang.serving.command._with_platform", too_late)
    monkeypatch.delenv("LED_SGLANG", raising=False)

    def run(*flags: str, port: bool = True) -> str:
        given = ["--port", str(free_port())] if port and "--port" not in flags else []
        assert main(["serve", *flags, *given]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if "no --model-path" not in line]
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("led-sglang: ")
        return lines[0]

    return run
