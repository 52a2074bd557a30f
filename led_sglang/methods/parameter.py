"""Parameters of a request: one declaration each, from which everything else follows.

A method's parameters are a frozen dataclass whose fields are made by `parameter`. The declaration
holds the parser, what the tables of README and docs say, and how a row of a batch carries the value
to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from led_sglang.methods.values import ParameterError, Parser, boolean, show
from led_sglang.settings import ServerSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Column:
    """One number per row of a batch, on the device.

    Attributes:
        name: by which a step finds it.
        kind: bool, int or float: [B] bool, int64 or f32 on the device.
        neutral: what rows of other methods hold: a step computes with it and discards the result.
        value: the number, from the parameters of a row.
    """

    name: str
    kind: type
    neutral: float
    value: Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What is known of one key of a method's group.

    Attributes:
        name: the key.
        parse: checks and converts a value.
        default: what a request that does not name it gets.
        from_server: the default is the server's setting of the same name.
        values, meaning: for the tables of README and docs.
        column: how a row carries it; None where the host alone needs it.
        samplers: the methods that take it; empty: all that share the parameters.
    """

    name: str
    parse: Parser
    default: Any
    values: str
    meaning: str
    from_server: bool = False
    column: Column | None = None
    samplers: tuple[str, ...] = ()


def parameter(default: Any, parse: Parser, *, neutral: float | None = None, **known: Any) -> Any:
    """A field of a method's parameters.

    Args:
        default, parse: see `Parameter`.
        neutral: given: a row carries the value itself, in a column of the parameter's name.
        known: values, meaning and, where they differ from its defaults, the others of `Parameter`.
    """
    return field(default=default, metadata={"parse": parse, "neutral": neutral, **known})


def switch(default: bool, meaning: str, **known: Any) -> Any:
    """A `parameter` that is true or false."""
    return parameter(default, boolean, values="true, false", meaning=meaning, **known)


def parameters_of(params: type, sampler: str = "") -> tuple[Parameter, ...]:
    """The parameters that a dataclass declares, in order.

    Args:
        params: the dataclass.
        sampler: given: only those that this method takes.
    """
    found = []
    for entry in fields(params):
        if not entry.metadata:  # a field that no request sets
            continue
        declared = dict(entry.metadata)
        neutral = declared.pop("neutral")
        if neutral is not None:
            kind = type(entry.default)
            declared["column"] = Column(entry.name, kind, neutral, attrgetter(entry.name))
        found.append(Parameter(name=entry.name, default=entry.default, **declared))
    return tuple(p for p in found if not sampler or not p.samplers or sampler in p.samplers)


def parse_group(
    name: str, group: Mapping[str, Any], parameters: Sequence[Parameter], settings: ServerSettings
) -> dict[str, Any]:
    """The values a request gave in the group `custom_params.<name>`.

    Raises:
        ParameterError: a key that is no parameter, or a value that its parser refuses.
    """
    parsers = {p.name: p.parse for p in parameters}
    unknown = [key for key in group if key not in parsers]
    if unknown:
        raise ParameterError(
            f"custom_params.{name}.{show(unknown[0])[1:-1]} is unknown; "
            f"allowed: {', '.join(parsers)}"
        )
    return {
        key: parsers[key](f"custom_params.{name}.{key}", value, settings)
        for key, value in group.items()
    }


def columns_of(params: type, *derived: Column) -> tuple[Column, ...]:
    """The columns of a method: those of its parameters, then those made of several of them."""
    own = (p.column for p in parameters_of(params))
    return (*(column for column in own if column is not None), *derived)


def unpack(columns: Sequence[Column], packed: Tensor) -> dict[str, Tensor]:
    """Columns by name: [B] bool, int64 or f32, from [B, columns] f64."""
    return {
        column.name: values.bool()
        if column.kind is bool
        else values.long()
        if column.kind is int
        else values.float()
        for column, values in zip(columns, packed.unbind(1), strict=True)
    }
