"""A tiny Qwen3 with random weights: tests run on it without a download; what it says is noise.

Its tokenizer and chat template are the bundled models' too, see `bundled.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_END_OF_TEXT, _TURN_START, _TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

_TURNS_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
"""
_THINKING_TEMPLATE = """\
{{- THINK_START + '\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '\\n' + THINK_END + '\\n\\n' }}
{%- endif %}
"""


def write_random_qwen3(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 12,
    hidden: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    intermediate: int = 256,
    tie_embeddings: bool = True,
    dtype: str = "bfloat16",
    max_position: int = 4096,
    think_tokens: tuple[str, str] | None = ("<think>", "</think>"),
    init_scale: float = 0.12,
) -> Path:
    """Write a random Qwen3 in Hugging Face format: weights, tokenizer, chat template.

    The vocabulary is the tokenizer's: a byte a token, so that any text round-trips; 261 ids with
    think tokens, ragged as real ones are.

    Weights are normal: `init_scale` for every matrix, except that the two projections of a layer
    that write to the residual stream get init_scale / sqrt(3 * layers), which keeps its RMS near
    one (0.8 after layer 5, 1.3 after layer 11) and so the un-normed latents as spread as the
    final posterior. Measured with the defaults over 2,048 tokens sampled at temperature 0.6:
    top-1 probability 0.10 / 0.20 / 0.45 (10th, 50th, 90th percentile; 0.10 / 0.19 / 0.42 untied),
    mass of the top 8 0.60, total variation between the posteriors of neighbouring layers 0.28 to
    0.31, and every one of the last 8 layers is chosen (docs/method.md#entropy-choice) on some
    rows. Transformers' own scale of 0.02 gives top-1 0.01 and layers that hardly differ (0.01). For
    another `hidden`, scale by sqrt(128 / hidden).

    Args:
        path: folder to write, made if missing; it is returned.
        seed: of the weights; the same seed and sizes give the same weights.
        heads, kv_heads, head_dim: of attention; `intermediate` is the width of the MLP.
        dtype: of the weights: "bfloat16", "float16" or "float32".
        max_position: context length in tokens.
        think_tokens: texts of the think delimiters; None for a tokenizer without them.
        init_scale: standard deviation of the weight matrices.
    """
    # Imported here: transformers takes seconds to import, and the command line needs only names.
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer(think_tokens, max_position)
    end_of_text, turn_end = tokenizer.convert_tokens_to_ids([_END_OF_TEXT, _TURN_END])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=tie_embeddings,
        max_position_embeddings=max_position,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=turn_end,
        pad_token_id=end_of_text,
    )
    # The constructor draws weights of its own from the global generator: give its state back.
    with torch.random.fork_rng(devices=[]):
        model = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:  # norm weights stay one
                continue
            writes_residual = "o_proj" in name or "down_proj" in name
            scale = init_scale / (3 * layers) ** 0.5 if writes_residual else init_scale
            parameter.normal_(std=scale, generator=generator)
    model.to(getattr(torch, dtype))
    # What Qwen3 publishes for its thinking mode, so that a bare request samples.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        eos_token_id=[turn_end, end_of_text],
        pad_token_id=end_of_text,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def chat_template(think_tokens: tuple[str, str] | None) -> str:
    """ChatML; the generation prompt opens thinking, or opens and closes it at once."""
    thinking = ""
    if think_tokens is not None:
        start, end = (json.dumps(text) for text in think_tokens)
        thinking = _THINKING_TEMPLATE.replace("THINK_START", start).replace("THINK_END", end)
    return f"{_TURNS_TEMPLATE}{thinking}{{%- endif %}}"


def byte_tokenizer(
    think_tokens: tuple[str, str] | None, max_position: int, words: Sequence[str] = ()
) -> Any:
    """A byte-level tokenizer: 256 bytes, merges for `words`, ChatML's tokens, the think tokens.

    Args:
        think_tokens: texts of the think delimiters; None for a tokenizer without them.
        max_position: context length in tokens.
        words: texts that become one token, each from left to right out of its longest known
            beginning and its next byte; where two overlap, the earlier one wins.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols, _ = split.pre_tokenize_str(word)[0]
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocab:
                vocab[symbols[:end]] = len(vocab)
                merges.append((symbols[: end - 1], symbols[end - 1]))
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = split
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([_END_OF_TEXT, _TURN_START, _TURN_END])
    # Not special, as in Qwen3: the detokenizer keeps them in the text.
    core.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in think_tokens or ()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=_TURN_END,
        pad_token=_END_OF_TEXT,
        model_max_length=max_position,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template(think_tokens)
    return tokenizer
