"""The CPU platform's attention in graphs: decoding as one kernel that reads lengths on the device.

A graph holds a kernel's launch, and the kernel reads the requests and their lengths from memory
that is filled before the replay. Prompts attend outside the graphs, at SGLang's breaks.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.layers.attention.attention_registry import register_attention_backend
from torch import Tensor

from graphs.recorded_graph import as_kernel
from led_sglang.patches.cpu import attention


@as_kernel
def _decode(
    query: Tensor,
    output: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    req_to_token: Tensor,
    requests: Tensor,
    lengths: Tensor,
    form: attention._Form,
) -> None:
    rows = attention.rows_of(req_to_token, requests, lengths)
    output.copy_(attention._queries_of_each(query, rows, k_cache, v_cache, form))


class GraphAttention(attention.BatchedTorchAttention):
    """What SGLang's graph runners ask of an attention backend."""

    _in_graph = False

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None: ...

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        return 1

    def init_forward_metadata(self, forward_batch: Any) -> None:
        self._in_graph = False
        super().init_forward_metadata(forward_batch)

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        self._in_graph = True

    def init_forward_metadata_in_graph(self, forward_batch: Any) -> None:
        if self.use_sliding_window_kv_pool:
            self.swa_out_cache_loc = self.token_to_kv_pool.translate_loc_from_full_to_swa(
                forward_batch.out_cache_loc
            )

    def _run_sdpa_forward_decode(
        self, query: Tensor, output: Tensor, *batch: Any, **how: Any
    ) -> Tensor:
        if not self._in_graph:
            return super()._run_sdpa_forward_decode(query, output, *batch, **how)
        _decode(query, output, *batch[:5], self._form(how))
        return output


def install() -> None:
    """Take the place of the CPU platform's attention, in this process."""
    for name in ("torch_native", "triton"):
        register_attention_backend(name)(GraphAttention)
