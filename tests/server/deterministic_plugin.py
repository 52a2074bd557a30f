"""Lets `--enable-deterministic-inference` start on CPU.

SGLang wants one of its GPU attention backends for it, replaces matrix products by Triton kernels
and hashes seeds in one. None of them exists on CPU; the launch, the scheduler and the sampler do.
Numba compiles nothing in it, so that LED's steps fall back to plain torch.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    from sglang.srt.arg_groups.choices import add_deterministic_attention_backend_choices
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from led_sglang.kernels.cpu import step

    add_deterministic_attention_backend_choices(["torch_native"])

    def compile_nothing() -> None:
        raise OSError("no place for the cache")

    step.compile_all = compile_nothing

    def leave_products_alone(original: Any, *args: Any, **kwargs: Any) -> None:
        return None

    def pick(original: Any, logprobs: Any, seed: Any, positions: Any) -> Any:
        import torch

        from led_sglang.kernels import gumbel_from_hash, hash32

        columns = torch.arange(logprobs.shape[1])
        noise = gumbel_from_hash(hash32(seed[:, None], positions[:, None].long(), columns))
        return (logprobs.double() + noise).argmax(1, keepdim=True)

    for path, hook in (
        ("batch_invariant_ops.enable_batch_invariant_mode", leave_products_alone),
        ("layers.sampler.multinomial_with_seed", pick),
    ):
        HookRegistry.register(f"sglang.srt.{path}", hook, HookType.AROUND)
