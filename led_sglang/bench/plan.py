"""What is measured, and in which order: pairs of runs, so that the machine's drift cancels."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from led_sglang.bench import BenchError
from led_sglang.common.flags import share
from led_sglang.methods.registry import sampler_names

BASELINE = "regular"
CONFIDENCE = "confidence"


@dataclass(frozen=True)
class Arm:
    """One way to serve the same requests.

    Attributes:
        name: as tables show it.
        custom_params: of every request; None sends none.
        server: which of the servers it runs on.
        rate: the explore rate asked for, where it is one.
    """

    name: str
    custom_params: dict[str, Any] | None
    server: str = "led"
    rate: float | None = None


@dataclass(frozen=True)
class Pair:
    """The baseline and an arm, one right after the other."""

    batch_size: int
    repeat: int
    arm: Arm

    @property
    def key(self) -> tuple[int, int, str]:
        """Tells pairs of a plan apart."""
        return self.batch_size, self.repeat, self.arm.name


@dataclass(frozen=True)
class Plan:
    """A whole benchmark.

    Attributes:
        baseline: what every one of the `arms` is compared with.
        batch_sizes: requests that decode together.
        context: prompt length in tokens.
        output_len: tokens generated per request.
        repeats: pairs of each arm and batch size.
        prompts: file of prompts in the format of SGLang's `custom` dataset; None: random ids.
    """

    baseline: Arm
    arms: tuple[Arm, ...]
    batch_sizes: tuple[int, ...]
    context: int
    output_len: int
    repeats: int
    temperature: float = 0.6
    prompts: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def pairs(self, batch_size: int) -> Iterator[Pair]:
        """Pairs of one batch size in the order of measurement: every arm once, then again."""
        for repeat in range(self.repeats):
            for arm in self.arms:
                yield Pair(batch_size, repeat, arm)

    def order(self, pair: Pair) -> tuple[Arm, Arm]:
        """The two runs of a pair: A B, then B A, so that a steady drift favours neither."""
        both = (self.baseline, pair.arm)
        return both[::-1] if pair.repeat % 2 else both

    def tokens(self, batch_size: int) -> int:
        """KV tokens that a batch of this size holds at its end."""
        return batch_size * (self.context + self.output_len)

    def settings(self) -> dict[str, Any]:
        """What makes runs comparable, as JSON."""
        return {
            "baseline": self.baseline.name,
            "arms": {arm.name: arm.custom_params for arm in self.arms},
            "batch_sizes": list(self.batch_sizes),
            "context": self.context,
            "output_len": self.output_len,
            "repeats": self.repeats,
            "temperature": self.temperature,
            "prompts": self.prompts,
            **self.facts,
        }


def explore_rates(text: str) -> list[float | None]:
    """`confidence`, rates, or both, separated by commas; None stands for `confidence`.

    Raises:
        BenchError: a value is neither.
    """
    rates: list[float | None] = []
    for part in text.split(","):
        try:
            rates.append(None if part == CONFIDENCE else share(part))
        except ArgumentTypeError:
            raise BenchError(
                f"--explore-rate {part} is neither {CONFIDENCE} nor a number from 0 to 1"
            ) from None
    return rates


def arms_of(
    samplers: Sequence[str], rates: Sequence[float | None], think_only: bool
) -> tuple[Arm, ...]:
    """The arms to compare with `regular`: `led` once per explore rate, other methods once.

    Args:
        samplers: names; `regular` itself is the baseline and may be left out.
        rates: from `explore_rates`.
        think_only: whether LED leaves tokens outside the think phase alone.

    Raises:
        BenchError: an unknown sampler, or none beside `regular`.
    """
    arms = []
    for name in dict.fromkeys(samplers):
        if name not in sampler_names():
            known = ", ".join(sampler_names())
            raise BenchError(f"--samplers {name} is unknown: choose among {known}")
        if name == "led":
            arms += [_led(rate, think_only) for rate in dict.fromkeys(rates)]
        elif name != BASELINE:
            arms.append(Arm(name, {"sampler": name}))
    if not arms:
        raise BenchError(f"--samplers needs at least one beside {BASELINE}")
    return tuple(arms)


def regular(server: str = "led") -> Arm:
    """The baseline: SGLang's own sampler."""
    return Arm(BASELINE, {"sampler": BASELINE}, server)


def _led(rate: float | None, think_only: bool) -> Arm:
    params: dict[str, Any] = {"think_only": think_only}
    if rate is None:
        return Arm("led, confidence", {"sampler": "led", "led": params})
    params |= {"gate": "rate", "gate_rate": rate}
    return Arm(f"led, rate {rate:g}", {"sampler": "led", "led": params}, rate=rate)
