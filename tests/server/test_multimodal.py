"""A multimodal wrapper: LED reads its language model's layers, with and without an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from features.checks import ALWAYS, GREEDY, assert_led_tokens
from harness import serve
from oracle import Oracle
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from vision_model import IMAGE, VISION_END, VISION_START, write_random_vision_model

QUESTION = "<|im_start|>user\n{}What is this?<|im_end|>\n<|im_start|>assistant\n<think>\n"


class VisionOracle(Oracle):
    """The oracle over transformers' own wrapper, looking at one image or none."""

    def __init__(self, path: Path, image: Image.Image | None) -> None:
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        self.model.eval()
        text = self.model.model.language_model
        self.layers, self.norm = text.config.num_hidden_layers, text.norm
        self.head = self.model.lm_head.weight.detach()
        seen = f"{VISION_START}{IMAGE}{VISION_END}" if image is not None else ""
        self.text = QUESTION.format(seen)
        inputs = AutoProcessor.from_pretrained(path)(
            text=[self.text], images=image, return_tensors="pt"
        )
        self.prompt: list[int] = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask")
        self.types: list[int] = inputs.pop("mm_token_type_ids", torch.zeros(1, 0))[0].tolist()
        self.pixels: dict[str, Any] = dict(inputs)

    @torch.no_grad()
    def states(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        extra = dict(self.pixels)
        if self.types:
            types = self.types + [0] * (len(ids) - len(self.types))
            extra["mm_token_type_ids"] = torch.tensor([types])
        out = self.model(
            torch.tensor([list(ids)]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            output_hidden_states=True,
            **extra,
        )
        streams = torch.stack(out.hidden_states[1 : self.layers], dim=1)[0]
        return out.logits[0], streams.transpose(0, 1).flip(1)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    pixels = torch.randint(256, (84, 112, 3), generator=torch.Generator().manual_seed(1))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def test_tokens_equal_the_oracle(tmp_path: Path, image: Image.Image) -> None:
    path = write_random_vision_model(tmp_path / "model", seed=4)
    file = io.BytesIO()
    image.save(file, "png")
    encoded = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    seeing, blind = VisionOracle(path, image), VisionOracle(path, None)
    answers = []
    with serve(path, "--dtype", "float32") as server:
        for oracle, picture in ((seeing, encoded), (blind, None)):
            body = {
                "text": oracle.text,
                "image_data": picture,
                "sampling_params": GREEDY
                | {"max_new_tokens": 48, "custom_params": {"led": ALWAYS}},
            }
            response = server.post("/generate", body)
            assert response.status_code == 200, response.text
            answers.append(response.json())
    for oracle, answer in zip((seeing, blind), answers, strict=True):
        assert answer["meta_info"]["prompt_tokens"] == len(oracle.prompt)
        assert_led_tokens(oracle, oracle.prompt, answer["output_ids"])
    assert answers[0]["output_ids"] != answers[1]["output_ids"]
