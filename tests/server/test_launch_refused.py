"""A launch that LED cannot hold ends with one sentence that names the cause, and serves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launches import refused_launch, renamed_launches

from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.patches import TOUCHED

PATHS = [symbol.path for symbol in TOUCHED]


@pytest.fixture(scope="module")
def renamed(model_path: Path) -> dict[str, tuple[int, str]]:
    return renamed_launches(PATHS, "--model-path", str(model_path))


@pytest.mark.parametrize("path", PATHS)
def test_renamed_symbol(renamed: dict[str, tuple[int, str]], path: str) -> None:
    status, output = renamed[path]
    assert status == 2
    message = sentence(output)
    assert path in message
    assert "0.5.23" in message


AUX_FLAGS = (
    "--enable-return-aux-hidden-states",
    *("--speculative-algorithm", "DFLASH"),
    *("--return-aux-hidden-state-layer-ids", "3"),
)
NGRAM = ("--speculative-algorithm", "NGRAM")
FLAGS = [
    (("--speculative-algorithm", "DFLASH"), "DFLASH"),
    ((*NGRAM, "--speculative-accept-threshold-acc", "0.9"), "--speculative-accept-threshold-acc"),
    (("--enable-two-batch-overlap",), "--enable-two-batch-overlap"),
    (("--enable-pdmux",), "--enable-pdmux"),
    (("--enable-return-hidden-states",), "--enable-return-hidden-states"),
    (AUX_FLAGS, "--enable-return-aux-hidden-states"),
    (("--enable-layernorm-sp", "--tp", "2"), "--enable-layernorm-sp"),
    (("--enable-attn-tp-input-scattered", "--tp", "2"), "--enable-attn-tp-input-scattered"),
    (("--enable-nvidia-megakernel",), "--enable-nvidia-megakernel"),
    (("--enable-amd-monokernel",), "--enable-amd-monokernel"),
    (("--smg-grpc-mode",), "--smg-grpc-mode"),
    (("--attn-cp-size", "2", "--tp", "2"), "--attn-cp-size"),
    (("--dcp-size", "2", "--tp", "2"), "--dcp-size"),
    (("--model-impl", "transformers"), "--model-impl"),
    (("--pp-size", "2", "--led-depth", "7"), "SGLANG_PP_LAYER_PARTITION"),
    (("--pp-size", "13"), "--pp-size 13"),
    (("--disaggregation-mode", "prefill", "--enable-pd-role-switch"), "--enable-pd-role-switch"),
    (("--disaggregation-mode", "prefill", "--pp-size", "2"), "--pipeline-parallel-size"),
    (("--enable-watermark",), "--enable-watermark"),
    (("--is-embedding",), "--is-embedding"),
    (("--use-ray",), "--use-ray"),
    (("--enable-lora", "--lora-target-modules", "all", "--max-lora-rank", "8"), "lm_head"),
    (("--enable-dp-attention", "--dp", "2", "--tp", "2"), "--enable-dp-lm-head"),
    (("--led-depth", "0"), "--led-depth"),
    (("--led-depth", "13"), "--led-depth"),
    (("--led-candidates", "0"), "--led-candidates"),
    (("--led-candidates", "65"), "--led-candidates"),
    (("--led-layers", "papers"), "--led-layers"),
    (("--led-think-only", "maybe"), "--led-think-only"),
    (("--sampler", "beam"), "--sampler"),
    (("--enable-samplers", "led,beam"), "--enable-samplers"),
    (("--sampling-backend", "pytorch"), "--sampling-backend"),
    (("--enable-samplers", "dola", "--dola-layers", "12"), "--dola-layers"),
    (("--enable-samplers", "dola", "--dola-layers", "middle"), "--dola-layers"),
    (("--enable-samplers", "soft-thinking", "--enable-mixed-chunk"), "--enable-mixed-chunk"),
    (("--enable-samplers", "soft-thinking", "--enable-torch-compile"), "--enable-torch-compile"),
    (
        (
            *("--enable-samplers", "soft-thinking", "--tp", "2", "--dp", "2"),
            *("--enable-dp-attention", "--enable-dp-lm-head"),
        ),
        "attention data parallelism",
    ),
    (
        ("--sampler", "soft-thinking", "--speculative-algorithm", "NGRAM"),
        "--speculative-algorithm",
    ),
    (
        ("--sampler", "soft-thinking", "--disaggregation-mode", "decode"),
        "--disaggregation-mode",
    ),
    (("--sampler", "soft-thinking", "--pp-size", "2"), "--pipeline-parallel-size"),
    (
        ("--pp-size", "2", "--enable-samplers", "dola", "--dola-layers", "4,8"),
        "SGLANG_PP_LAYER_PARTITION",
    ),
    (("--led-think-start", "<a>", "--led-think-end", "<a>"), "think delimiters"),
    (("--led-tool-start", "<think>"), "--led-tool-start"),
    (("--served-model-name", "tiny:v1"), "--served-model-name"),
    # one of SGLang's own checks
    (("--base-gpu-id", "-1"), "base_gpu_id"),
]


@pytest.mark.parametrize(("flags", "named"), FLAGS, ids=[" ".join(f) for f, _ in FLAGS])
def test_flags(model_path: Path, flags: tuple[str, ...], named: str) -> None:
    status, output = refused_launch("--model-path", str(model_path), *flags)
    assert status == 2, output[-3000:]
    assert named in sentence(output)


@pytest.mark.parametrize(
    ("name", "value", "flags"),
    [
        ("SGLANG_RUST_SERVER", "1", ()),
        ("SGLANG_SIMULATE_ACC_LEN", "2", NGRAM),
        ("SGLANG_HTTP_SERVER_APP_PATH", "my.app:app", ("--tokenizer-worker-num", "2")),
        ("SGLANG_PP_LAYER_PARTITION", "11,1", ("--pp-size", "2", "--led-depth", "2")),
        ("SGLANG_PP_LAYER_PARTITION", "4", ("--pp-size", "2")),
    ],
)
def test_environment(
    model_path: Path,
    name: str,
    value: str,
    flags: tuple[str, ...],
) -> None:
    status, output = refused_launch("--model-path", str(model_path), *flags, env={name: value})
    assert status == 2, output[-3000:]
    assert name in sentence(output)


def test_tokenizer_without_the_delimiters(tmp_path: Path) -> None:
    model = write_random_qwen3(tmp_path / "model", think_tokens=None)
    status, output = refused_launch("--model-path", str(model))
    assert status == 2
    for flag in ("--led-think-start", "--led-think-end", "--led-think-only"):
        assert flag in sentence(output)


@pytest.mark.parametrize(
    ("flag", "values", "family"),
    [
        ("--dllm-algorithm", ("LowConfidence",), "SDARForCausalLM"),
        ("--encoder-only", (), "Qwen2VLForConditionalGeneration"),
    ],
)
def test_flags_of_other_families(
    tmp_path: Path, flag: str, values: tuple[str, ...], family: str
) -> None:
    """SGLang takes these flags for such models alone."""
    model = write_random_qwen3(tmp_path / "model")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace("Qwen3ForCausalLM", family))
    status, output = refused_launch("--model-path", str(model), flag, *values)
    assert status == 2, output[-3000:]
    assert flag in sentence(output)


def test_family_that_cannot_be_captured(tmp_path: Path) -> None:
    model = write_random_qwen3(tmp_path / "model")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace("Qwen3ForCausalLM", "OPTForCausalLM"))
    status, output = refused_launch("--model-path", str(model))
    assert status == 2
    assert "OPTForCausalLM" in sentence(output)
    assert "--sampler regular" in sentence(output)


def test_a_draft_model_of_another_vocabulary(model_path: Path, tmp_path: Path) -> None:
    drafter = write_random_qwen3(tmp_path / "model")
    config = json.loads((drafter / "config.json").read_text())
    size = config["vocab_size"]
    (drafter / "config.json").write_text(json.dumps(config | {"vocab_size": size + 8}))
    status, output = refused_launch(
        *("--model-path", str(model_path), "--speculative-algorithm", "STANDALONE"),
        *("--speculative-draft-model-path", str(drafter)),
    )
    assert status == 2, output[-3000:]
    for part in (f"{size + 8} tokens", str(size), "--speculative-draft-model-path"):
        assert part in sentence(output)


def test_sglang_launcher_refuses_too(model_path: Path) -> None:
    flags = ("--model-path", str(model_path), "--device", "cpu", "--sampling-backend", "led")
    status, output = refused_launch(*flags, "--enable-pdmux", command="sglang")
    assert status not in (0, None)
    assert "--enable-pdmux" in sentence(output)


def sentence(output: str) -> str:
    """The last line of a launch's output: the sentence that says what to change."""
    lines = [line for line in output.splitlines() if line.strip()]
    assert "Traceback" not in output, output[-3000:]
    return lines[-1]
