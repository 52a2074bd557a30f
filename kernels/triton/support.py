"""What the Triton kernels can serve; everything else is refused with the reason, at launch."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .combine import MAX_CANDIDATES

MAX_DEPTH = 64
MAX_HIDDEN = 32768
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def unsupported_reason(
    weight: Tensor, latents_dtype: torch.dtype, candidates: int, depth: int
) -> str | None:
    """Why the Triton kernels cannot serve this, or None if they can.

    Args:
        weight: the LM head shard's, [columns, H].
        latents_dtype: of the captured latents.
        candidates, depth: the largest a request may ask for.
    """
    if not 1 <= candidates <= MAX_CANDIDATES:
        return f"candidates is {candidates}; the kernels hold 1 to {MAX_CANDIDATES}"
    if not 1 <= depth <= MAX_DEPTH:
        return f"depth is {depth}; the kernels hold 1 to {MAX_DEPTH}"
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
    hidden = weight.shape[1]
    if weight.dtype not in _DTYPES:
        return f"the LM head is {weight.dtype}; the kernels read {names}"
    if weight.stride(1) != 1:
        return "the rows of the LM head are not contiguous"
    if not 1 <= hidden <= MAX_HIDDEN:
        return f"the hidden size is {hidden}; the kernels hold 1 to {MAX_HIDDEN}"
    if weight.is_cuda and hidden * weight.element_size() % 16:
        return f"the hidden size is {hidden}: rows of the LM head do not start on 16 bytes"
    if torch.promote_types(latents_dtype, weight.dtype) != weight.dtype:
        return f"latents are {latents_dtype} and would be rounded to the LM head's {weight.dtype}"
    return device_reason(weight.device)


def device_reason(device: torch.device) -> str | None:
    """Why the kernels cannot run on this device, or None if they can."""
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "the kernels are tested for NVIDIA devices only"
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            return f"the device is sm_{capability[0]}{capability[1]}; the kernels need sm_80"
    elif not triton.knobs.runtime.interpret:
        return f"the device is {device.type}; the kernels need a CUDA device"
    return None
