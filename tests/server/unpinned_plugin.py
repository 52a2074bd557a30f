"""Lets features start on CPU for which SGLang pins host memory: that needs a CUDA driver.

There is no copy to a device here, hence nothing to pin.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    import torch

    def unpinned(make: Any) -> Any:
        def wrapper(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*args, **kwargs)
            return tensor

        return wrapper

    for name in ("tensor", "zeros", "empty"):
        setattr(torch, name, unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
