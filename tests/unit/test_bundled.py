"""The bundled models: whole, small, read without a network; a damaged file is named."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_reasoner.task import LEVELS
from tiny_reasoner.tokenizer import make_tokenizer
from transformers import AutoConfig, AutoTokenizer

from led_sglang import cli
from led_sglang.common.server_process import free_port
from led_sglang.models import bundled
from led_sglang.models.bundled import CHECKSUMS, bundled_model, check_files, write_checksums
from led_sglang.settings import LaunchRefused

NAMES = ("tiny-reasoner", "tiny-reasoner-sft")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled_model(), tmp_path / "model"))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_a_checksum_and_all_fit(name: str) -> None:
    folder = bundled_model(name)
    listed = {line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()}
    assert listed == {file.name for file in folder.iterdir()} - {CHECKSUMS}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= listed
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_bfloat16_and_the_tokenizer_is_the_recipes(name: str) -> None:
    from safetensors.torch import load_file

    folder = bundled_model(name)
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert 1e6 < sum(tensor.numel() for tensor in weights.values()) < 1e7
    config: Any = AutoConfig.from_pretrained(folder)
    shipped: Any = AutoTokenizer.from_pretrained(folder)
    assert config.model_type == "qwen3"
    assert config.num_hidden_layers >= 9  # LED at its default depth of 8
    assert config.vocab_size == len(shipped)
    assert shipped.get_vocab() == make_tokenizer(LEVELS["search"].rooms).get_vocab()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_named_with_both_checksums(copy: Path, name: str) -> None:
    file = copy / name
    good = hashlib.sha256(file.read_bytes()).hexdigest()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    bad = hashlib.sha256(content).hexdigest()
    with pytest.raises(LaunchRefused) as refused:
        check_files(copy)
    assert all(text in str(refused.value) for text in (str(file), good, bad, "--model-path"))


@pytest.mark.parametrize("name", ["config.json", CHECKSUMS])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(LaunchRefused, match=name):
        check_files(copy)


def test_a_launch_without_a_model_ends_with_the_damaged_file(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = copy.parent / "models"
    models.mkdir()
    copy.rename(models / bundled.DEFAULT)
    (models / bundled.DEFAULT / "model.safetensors").write_bytes(b"cut off")
    monkeypatch.setattr(bundled.resources, "files", lambda package: copy.parent)
    assert cli.main(["serve", "--port", str(free_port())]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors" in error
    assert hashlib.sha256(b"cut off").hexdigest() in error


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    write_checksums(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / CHECKSUMS).read_text() == f"{digest}  a.txt\n"
    check_files(tmp_path)
