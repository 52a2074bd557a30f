"""Statistics of every layer, by transformers' forward over given tokens, reduced layer by layer.

A hook on each decoder layer reduces its output at once: no hidden state outlives its layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from led_sglang.analysis import AnalysisError
from led_sglang.analysis.reduction import Head, entropy_and_top
from led_sglang.analysis.statistics import (
    COVERAGE_SIZES,
    GROUPS,
    UNCERTAIN_P1,
    VARIANTS,
    LayerSums,
    LayerTable,
)

# Tokens of one forward; what came before them is in the KV cache.
_CHUNK_TOKENS = 1024
# Relative difference between our final logits and the model's own that rounding explains.
_LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


class LayerAnalysis:
    """Collects entropy and coverage of every layer over any number of sequences.

    Args:
        model: a causal language model of transformers, in evaluation mode, on its device.
        temperature: T of p^l = softmax(z^l / T), > 0; coverage does not depend on it.
        chunk: tokens of one forward.

    Raises:
        AnalysisError: the model is not built as a list of decoder layers, a norm and an LM head, or
            it shapes its logits in a way not known here.
    """

    def __init__(self, model: Any, temperature: float, chunk: int = _CHUNK_TOKENS) -> None:
        self._model, self._temperature, self._chunk = model, temperature, chunk
        self._decoder = model.get_decoder()
        if not hasattr(self._decoder, "layers") or not hasattr(self._decoder, "norm"):
            raise AnalysisError(
                f"{type(model).__name__}: expected a decoder with `layers` and a final `norm`"
            )
        self._layers = self._decoder.layers
        self._norm: Callable[[Tensor], Tensor] = self._decoder.norm
        self._head = _head(model)
        weight = self._head.weight
        if weight.shape[0] <= max(COVERAGE_SIZES):
            raise AnalysisError(f"a vocabulary of {weight.shape[0]} tokens has no top 16")
        self._sums = LayerSums(len(self._layers), weight.shape[0], weight.device)
        # Of one forward, per variant and layer; of its final posterior.
        self._entropies: list[list[Tensor]] = []
        self._tops: list[list[Tensor]] = []
        self._p1: Tensor | None = None
        self._wanted = slice(0, 0)
        self._check_head()

    @torch.no_grad()
    def add(
        self, prompt: Sequence[int], tokens: Sequence[int], thinks: Sequence[bool] | None = None
    ) -> None:
        """Add one completion.

        Args:
            prompt: its token ids, at least one.
            tokens: generated token ids; each is one sample, seen from the position before it.
            thinks: of each token, whether it was generated within the thought; None where nobody
                knows.
        """
        if not prompt or not tokens:
            return
        done = 0
        # The last token predicts nothing that was generated.
        ids = torch.tensor([[*prompt, *tokens[:-1]]], device=self._head.weight.device)
        cache = None
        handles = [
            layer.register_forward_hook(self._hook(index))
            for index, layer in enumerate(self._layers)
        ]
        try:
            for start in range(0, ids.shape[1], self._chunk):
                part = ids[:, start : start + self._chunk]
                self._wanted = slice(max(len(prompt) - 1 - start, 0), part.shape[1])
                self._entropies, self._tops = [[] for _ in VARIANTS], [[] for _ in VARIANTS]
                out = self._decoder(input_ids=part, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                if self._p1 is not None:
                    end = done + len(self._p1)
                    within = None if thinks is None else thinks[done:end]
                    self._sums.add(self._entropies, self._tops, _groups(self._p1, within))
                    done, self._p1 = end, None
        finally:
            for handle in handles:
                handle.remove()
            self._entropies, self._tops, self._p1 = [], [], None
        self._sums.end_prompt()

    def tables(self) -> dict[str, LayerTable]:
        """Averages over the tokens added so far: over all, and over each group that has any."""
        return self._sums.tables()

    def table(self) -> LayerTable:
        """Averages over all tokens added so far."""
        return self.tables()["all"]

    def _hook(self, index: int) -> Callable[[Any, Any, Any], None]:
        def reduce(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = (output[0] if isinstance(output, tuple) else output)[0, self._wanted]
            if hidden.shape[0] == 0:
                return
            if index == len(self._layers) - 1:  # p^L, one posterior for both variants
                results = [self._reduce(self._norm(hidden))] * len(VARIANTS)
                self._p1 = results[0][1]
            else:
                results = [self._reduce(hidden), self._reduce(self._norm(hidden))]
            for variant, (entropies, _, top) in enumerate(results):
                self._entropies[variant].append(entropies)
                self._tops[variant].append(top)

        return reduce

    def _reduce(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return entropy_and_top(hidden, self._head, self._temperature, max(COVERAGE_SIZES))

    @torch.no_grad()
    def _check_head(self) -> None:
        """Our logits of the last layer must be the model's own."""
        caught: list[Tensor] = []
        handle = self._layers[-1].register_forward_hook(
            lambda _m, _i, out: caught.append(out[0] if isinstance(out, tuple) else out)
        )
        weight = self._head.weight
        try:
            ids = torch.arange(8, device=weight.device)[None]
            theirs = self._model(input_ids=ids).logits[0].float()
        finally:
            handle.remove()
        ours = self._head.logits(self._norm(caught[0][0]))
        error = (ours - theirs).norm() / theirs.norm()
        if not error <= _LOGIT_TOLERANCE.get(weight.dtype, 0.0):
            raise AnalysisError(
                f"{type(self._model).__name__} shapes its logits in a way not known here: "
                f"relative difference {float(error):.2g}"
            )


def _groups(p1: Tensor, thinks: Sequence[bool] | None) -> Tensor:
    """[4, N] bool: which of N tokens are in which of GROUPS."""
    everything = torch.ones_like(p1, dtype=torch.bool)
    thought = answer = ~everything
    if thinks is not None:
        thought = torch.tensor(thinks, device=p1.device)
        answer = ~thought
    members = {
        "all": everything,
        "uncertain": p1 < UNCERTAIN_P1,
        "think": thought,
        "answer": answer,
    }
    return torch.stack([members[name] for name in GROUPS])


def load_model(path: Path | str, device: str, dtype: str, trust_remote_code: bool = False) -> Any:
    """A causal language model for `LayerAnalysis`.

    Args:
        path: folder or Hugging Face name.
        dtype: `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`.
        trust_remote_code: run the code that the model brings.

    Raises:
        AnalysisError: transformers cannot read it.
    """
    from transformers import AutoModelForCausalLM

    with _readable(path):
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return model.to(device).eval()


def check_model(path: Path | str, trust_remote_code: bool = False) -> None:
    """Find out whether transformers reads the model here; AnalysisError where it does not."""
    from transformers import AutoConfig

    with _readable(path):
        AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (ImportError, KeyError, OSError, ValueError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise AnalysisError(f"transformers cannot read the model {path} here: {why}") from None


def _head(model: Any) -> Head:
    embeddings = model.get_output_embeddings()
    if embeddings is None:
        raise AnalysisError(f"{type(model).__name__} has no LM head")
    config = model.config.get_text_config()
    # Cohere multiplies, Granite divides.
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(
        weight=embeddings.weight.detach(),
        bias=getattr(embeddings, "bias", None),
        scale=scale,
        softcap=getattr(config, "final_logit_softcapping", None),
    )
