"""Kernels that are bound once and then launched without Triton's own look-ups.

Triton finds the compiled code of every launch anew: it reads the arguments' types, alignment and
options, which costs more than all the rest of a step on the host. A bound kernel skips that and
calls the launcher that Triton made for it. What it was bound for holds by construction: types and
sizes are those of the launch limits, and whoever launches says so where alignment could differ.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

logger = logging.getLogger(__name__)

# Grid x, grid y, stream, the kernel's own arguments as addresses and numbers.
_Launch = Callable[[int, int, Any, tuple[Any, ...]], None]

# Parameters of the launcher's call in the Triton versions whose way of launching is known here.
_AS_3_8 = "gridX gridY gridZ stream function kernel_metadata launch_metadata launch_enter_hook"
_AS_3_8 += " launch_exit_hook args"
_AS_3_6 = "gridX gridY gridZ stream function args"


class Arguments:
    """Arguments that stay from step to step: as given, and as a bound kernel takes them."""

    __slots__ = ("given", "raw")

    def __init__(self, *given: Tensor | TensorDescriptor | float) -> None:
        self.given = given
        self.raw: tuple[Any, ...] = tuple(map(_raw, given))


def _raw(argument: Any) -> Any:
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


class Kernel:
    """A kernel with its constants.

    Its parameters come in this order: what changes with every step, what stays, constants.

    Args:
        function: the Triton function.
        warps: of a program.
        constants: its `tl.constexpr` parameters.
    """

    def __init__(self, function: Any, warps: int, **constants: Any) -> None:
        self._function, self._options = function, constants | {"num_warps": warps}
        self._constants = tuple(constants.values())
        self._launch: _Launch | None = None
        self._tensor_maps: list[Any] = []  # how this kernel reads each of its descriptors

    @property
    def bound(self) -> bool:
        """Whether launches are direct."""
        return self._launch is not None

    def bind(self, grid: tuple[int, int], changing: tuple[Any, ...], staying: Arguments) -> Kernel:
        """Compile, launch once, and keep the launcher; in Triton's interpreter there is none."""
        compiled = self._function[grid](*changing, *staying.given, **self._options)
        if compiled is not None and hasattr(compiled, "packed_metadata"):
            self._launch = _launch_of(compiled, self._constants)
            self._tensor_maps = compiled.metadata.tensordesc_meta or []
        return self

    def encoded(self, staying: Arguments) -> Arguments:
        """Arguments with descriptors, encoded here and not in every launch."""
        if self._launch is not None:
            maps, raw = iter(self._tensor_maps), []
            for argument in staying.given:
                if isinstance(argument, TensorDescriptor):
                    raw += _encode(argument, next(maps))
                else:
                    raw.append(_raw(argument))
            staying.raw = tuple(raw)
        return staying

    def __call__(
        self,
        stream: Any,
        grid: tuple[int, int],
        changing: tuple[Any, ...],
        staying: Arguments,
        *,
        aligned: bool = True,
    ) -> None:
        """Launch it.

        Args:
            stream: from `current_stream`.
            grid: programs in x and y.
            changing, staying: its arguments.
            aligned: whether changing tensors and strides are aligned as those it was bound with.
        """
        launch = self._launch
        if launch is None or not aligned:
            self._function[grid](*changing, *staying.given, **self._options)
        else:
            launch(grid[0], grid[1], stream, (*map(_raw, changing), *staying.raw))


def current_stream(device_index: int | None) -> Any:
    """The stream that launches on this device go to; None without a GPU."""
    if device_index is None:
        return None
    return triton.runtime.driver.active.get_current_stream(device_index)


def _launch_of(compiled: Any, constants: tuple[Any, ...]) -> _Launch | None:
    """The direct way to launch a compiled kernel, or None, which is said in the log, once."""
    run = compiled.run
    try:
        known = " ".join(list(inspect.signature(type(run).__call__).parameters)[1:])
        if known not in (_AS_3_8, _AS_3_6):
            raise TypeError(f"its launcher takes ({known.replace(' ', ', ')})")
        if run.global_scratch_size or run.profile_scratch_size:
            raise TypeError("its kernels want scratch memory")
        raw = run.launch
        if compiled.metadata.tensordesc_meta:
            raw = inspect.getclosurevars(raw).nonlocals["launcher"]
        head = (run.launch_cooperative_grid, run.launch_pdl)
        if known == _AS_3_8:
            return _as_3_8(raw, compiled, head, run.arg_annotations, run.kernel_signature)
        return _as_3_6(raw, compiled, head, constants)
    except (AttributeError, KeyError, TypeError) as error:
        _say_slow(f"{type(error).__name__}: {error}")
        return None


def _encode(descriptor: TensorDescriptor, tensor_map: Any) -> list[Any]:
    encode = importlib.import_module("triton.backends.nvidia.driver").make_tensordesc_arg
    # Triton 3.8 hands over what else its launcher was called with, and does not read it.
    rest = [None] * (len(inspect.signature(encode).parameters) - 2)
    encoded: list[Any] = encode(descriptor, tensor_map, *rest)
    return encoded


@cache
def _say_slow(why: str) -> None:
    logger.warning(
        "Triton %s launches in a way that is not known here (%s): LED steps take Triton's slower "
        "launches.",
        triton.__version__,
        why,
    )


def _as_3_8(
    raw: Any, compiled: Any, head: tuple[Any, ...], annotations: Any, signature: Any
) -> _Launch:
    function, metadata = compiled.function, compiled.packed_metadata
    tail = (metadata, None, None, None, None, None)

    def launch(x: int, y: int, stream: Any, arguments: tuple[Any, ...]) -> None:
        # The annotations of constants come last, and constants are not passed.
        kinds = annotations[: len(arguments)]
        raw(x, y, 1, stream, function, *head, *tail, kinds, signature, arguments)

    return launch


def _as_3_6(raw: Any, compiled: Any, head: tuple[Any, ...], constants: tuple[Any, ...]) -> _Launch:
    function = compiled.function
    middle = (*head, None, None, compiled.packed_metadata, None, None, None)

    def launch(x: int, y: int, stream: Any, arguments: tuple[Any, ...]) -> None:
        raw(x, y, 1, stream, function, *middle, *arguments, *constants)

    return launch
