"""What `led-sglang serve` finds out about the model, in a folder or on the hub, before SGLang."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from led_sglang.cli import main
from led_sglang.common.server_process import free_port
from led_sglang.models.bundled import bundled_model
from led_sglang.serving.arguments import normalised, read
from led_sglang.serving.preflight import check_launched_model


def test_models_that_are_none(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_text('{"architectures": ["Qwen3')
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"12345678")
    for name, sentence in [
        (str(tmp_path / "none"), "does not exist"),
        ("./none", "does not exist"),
        ("~/none/such", "does not exist"),
        ("a/b/c", "does not exist"),
        (str(empty), "holds no config.json"),
        (str(cut), "config.json is not JSON"),
        (str(file), "is a file"),
        ("no name", "neither a folder here nor a name of the hub"),
        ("", "--model-path is empty"),
    ]:
        assert sentence in refused(f"--model-path={name}"), name
        assert sentence in refused("--model", name), name
    assert "holds no config.json" in refused(str(empty))


def _copied(folder: Path, without: str = " ", **files: bytes) -> str:
    """The bundled model without files of some beginning, and with others in their place."""
    folder.mkdir()
    for file in bundled_model().iterdir():
        if not file.name.startswith(without):
            (folder / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        (folder / name.replace("_JSON", ".json").replace("_SAFE", ".safetensors")).write_bytes(
            content
        )
    return str(folder)


def test_models_that_are_not_whole(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    weights = (bundled_model() / "model.safetensors").read_bytes()
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()
    pointer = b"version https://git-lfs.github.com/spec/v1\nsize 1\n"
    for number, (without, files, sentence) in enumerate(
        [
            ("model", {}, "holds no weights (*.safetensors, *.bin, *.pt)"),
            ("model", {"model.safetensors.index_JSON": index}, "holds no weights"),
            (" ", {"model.safetensors.index_JSON": index}, "model-00001-of-00002.safetensors"),
            (" ", {"model_SAFE": b""}, "no safetensors file"),
            (" ", {"model_SAFE": b"12345678{}"}, "no safetensors file"),
            (" ", {"model_SAFE": weights[:1000]}, "no safetensors file, or cut short"),
            (" ", {"model_SAFE": weights[:-1]}, "is cut short"),
            (" ", {"model_SAFE": pointer}, "git lfs pull"),
            ("token", {}, "holds no tokenizer"),
            ("token", {"tokenizer_JSON": b"{"}, "tokenizer.json is not JSON"),
            (" ", {"tokenizer_config_JSON": b"[]"}, "tokenizer_config.json is no JSON object"),
            (" ", {"config_JSON": b"null"}, "config.json is no JSON object"),
            (" ", {"config_JSON": b"{}"}, "neither model_type nor architectures"),
        ]
    ):
        assert sentence in refused(_copied(tmp_path / str(number), without, **files))


def test_parts_that_a_launch_does_not_need(tmp_path: Path) -> None:
    for argv in (
        [_copied(tmp_path / "a", "model"), "--load-format", "dummy"],
        [_copied(tmp_path / "b", "token"), "--tokenizer-path", str(bundled_model())],
        [_copied(tmp_path / "c", "token"), "--skip-tokenizer-init"],
        [_copied(tmp_path / "d")],
    ):
        given = read(normalised(argv))
        assert check_launched_model(given) == 10


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        known = self.path == "/owner/model/resolve/main/config.json"
        self.send_response(200 if known else 404)
        if not known:
            code = "EntryNotFound" if "no-config" in self.path else "RepoNotFound"
            self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_hub_that_does_not_have_the_model(refused, hub: None) -> None:  # type: ignore[no-untyped-def]
    assert "gives out no such model (HTTP 404)" in refused("owner/other")
    assert "gives out no such model" in refused("owner/model", "--revision", "v9")


@pytest.mark.parametrize("name", ["owner/model", "owner/no-config"])
def test_a_hub_that_has_the_model(
    hub: None, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[list[str]] = []
    monkeypatch.setattr("led_sglang.serving.command._has_accelerator", lambda: True)
    monkeypatch.setattr("led_sglang.serving.command._launch", launched.append)
    quiet: list[dict[str, bool]] = []
    monkeypatch.setattr(
        "led_sglang.patches.quiet.ask_for_quiet", lambda **given: quiet.append(given)
    )
    monkeypatch.setattr("led_sglang.serving.ready.announce_when_ready", lambda *_: None)
    port = str(free_port())
    assert main(["serve", name, "--port", port, "--led-depth", "4"]) == 0
    assert launched == [
        ["--model-path", name, "--port", port, "--led-depth", "4", "--log-level", "warning"]
    ]
    assert quiet == [{"without_gpu": False}]
    # A level that is given leaves all to SGLang.
    for level in ("info", "warning"):
        assert main(["serve", name, "--port", port, "--log-level", level]) == 0
        assert launched[-1][-2:] == ["--log-level", level]
    assert len(quiet) == 1


def test_a_hub_that_cannot_be_reached(  # type: ignore[no-untyped-def]
    refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    line = refused("owner/model")
    assert "cannot be reached" in line
    assert "owner/model" in line
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("owner/model")
    line = refused("--tokenizer-path", "owner/model")
    assert "--tokenizer-path owner/model" in line
    assert "HF_HUB_OFFLINE" in line
