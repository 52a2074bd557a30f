"""A pure-PyTorch CPU platform for SGLang (entry point group `sglang.srt.platforms`).

SGLang's own CPU engine needs a compiled `sgl_kernel` that PyPI does not carry; this platform runs
the same server on native PyTorch operations. It is chosen explicitly, by SGLANG_PLATFORM.
"""

from __future__ import annotations

import os
from typing import Any

PLATFORM_NAME = "led_cpu"
# Host memory has no natural bound like a card's: SGLang would zero a pool of most of the machine.
DEFAULT_KV_TOKENS = 65_536
# Nor has it for the states of recurrent layers, of which a running request has one.
DEFAULT_RECURRENT_STATES = 64


def activate() -> str | None:
    """Entry point: the platform's class, or None where another platform was (or none) chosen."""
    if os.environ.get("SGLANG_PLATFORM") != PLATFORM_NAME:
        return None
    from led_sglang.patches.quiet import quieten

    quieten()  # SGLang asks for its platform before it warns of anything
    return f"{__name__}.TorchCpu"


def _platform_class() -> type:
    from sglang.srt.platforms.cpu import CpuDeviceMixin
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import SRTPlatform

    class TorchCpu(CpuDeviceMixin, SRTPlatform):
        """CPU device operations, batched torch attention, no pinned memory, no graph capture."""

        _enum = PlatformEnum.OOT

        def get_default_attention_backend(self) -> str:
            return "torch_native"

        def get_device(self, device_id: int | None = 0) -> str:
            # SGLang takes it for the text that --device would be, and splits it; its own CPU
            # platform, which returns a torch.device, never comes there.
            return self.device_type

        def init_backend(self) -> None:
            # Called where the model runs.
            import torch

            from led_sglang.patches.cpu import attention, operations, pairs, recurrences

            attention.install()
            operations.install()
            pairs.install()
            recurrences.install_layers()
            # To release memory SGLang waits for the device that torch was built for, a GPU.
            operations.replace(torch.cuda, "synchronize", lambda device=None: None)

        def post_load_model(self, model: Any) -> None:
            from led_sglang.patches.cpu import recurrences

            recurrences.install_kernels()

        def get_speculative_worker_cls(self, algorithm: str) -> None:
            # Asked once, before SGLang makes its own worker, which imports these.
            from led_sglang.patches.cpu import drafting, speculation

            speculation.install()
            if self.supports_speculative_algorithm(algorithm):
                drafting.install()

        def supports_speculative_algorithm(self, algorithm: str) -> bool:
            # SGLang asks for those that bring a model of their own.
            return algorithm == "STANDALONE"

        def get_speculative_cache_locs_fn(self) -> Any:
            from led_sglang.patches.cpu import speculation

            return speculation.extend_cache_locs

        # /start_profile asks an out-of-tree platform for these.
        def get_torch_profiler_activity_str(self) -> str:
            return "CPU"

        def get_torch_profiler_activity(self) -> Any:
            import torch

            return torch.profiler.ProfilerActivity.CPU

        def is_pin_memory_available(self, device: Any = None) -> bool:
            return False

        def apply_server_args_defaults(self, server_args: Any) -> None:
            from led_sglang.patches.cpu import speculation

            speculation.keep_overlap()
            # An idle scheduler would busy-poll a whole core of the user's machine.
            server_args.sleep_on_idle = True
            server_args.lora_backend = "torch_native"  # the others are kernels of accelerators
            if server_args.max_total_tokens is None:
                server_args.max_total_tokens = DEFAULT_KV_TOKENS
            if server_args.max_mamba_cache_size is None:
                server_args.max_mamba_cache_size = DEFAULT_RECURRENT_STATES
            from sglang.srt.arg_groups import overrides

            # Left to itself, SGLang has snapshots of those states kept, which are a GPU's.
            overrides.supports_mamba_cache_extra_buffer = lambda view, hf_config: False
            if server_args.disaggregation_decode_retraction_backup is None:
                # SGLang's other way copies through page-locked memory.
                server_args.disaggregation_decode_retraction_backup = "cpu_tensor"
            if server_args.disaggregation_mode != "null":
                from led_sglang.patches.cpu.pairs import TRANSFER_LIMITS

                for name, value in TRANSFER_LIMITS.items():
                    os.environ.setdefault(name, value)

    return TorchCpu


def __getattr__(name: str) -> type:
    # SGLang's bases are imported on first use: `import led_sglang` must work without SGLang.
    if name == "TorchCpu":
        return _platform_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def thread_binding(ranks: int) -> str:
    """Cores per rank in SGLang's notation, e.g. "0|1" or "0-3|4-7"."""
    cores = sorted(os.sched_getaffinity(0))
    per_rank = max(len(cores) // ranks, 1)
    shares = []
    for rank in range(ranks):
        share = cores[rank * per_rank : (rank + 1) * per_rank] or [cores[rank % len(cores)]]
        contiguous = share[-1] - share[0] == len(share) - 1
        if len(share) > 1 and contiguous:
            shares.append(f"{share[0]}-{share[-1]}")
        else:
            shares.append(",".join(map(str, share)))
    return "|".join(shares)
