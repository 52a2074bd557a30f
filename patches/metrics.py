"""Sums over all requests: for `/server_info`, and for Prometheus beside SGLang's own metrics."""

from __future__ import annotations

from functools import cache
from typing import Any

from led_sglang.patches.hooks import hook
from led_sglang.patches.stages import answers_here

# Of this scheduler's metrics (model name, ranks, `--extra-metric-labels`); None without them.
_labels: dict[str, Any] | None = None

# Prometheus shows a counter as NAME_total.
_COUNTERS = {
    "steps": ("sglang:led_steps", "Total number of steps with a LED request in the batch."),
    "think_tokens": (
        "sglang:led_think_tokens",
        "Total number of tokens that LED sampled in the think phase.",
    ),
    "explored_tokens": (
        "sglang:led_explored_tokens",
        "Total number of tokens that LED sampled from a mix with latent layers.",
    ),
    "p1": (
        "sglang:led_p1_sum",
        "Sum over think tokens of the likeliest candidate's final probability; divided by "
        "sglang:led_think_tokens_total it is the mean p1.",
    ),
    "projected_rows": (
        "sglang:led_projected_rows",
        "Total number of latent rows that LED sent through the LM head.",
    ),
}
_BY_DEPTH = ("sglang:led_depth_tokens", "Total number of explored tokens by chosen depth.")
_FELL_BACK = (
    "sglang:led_fell_back",
    "Whether LED steps run in plain torch in place of the kernels of this device (1) or not (0).",
)

_SELF_CHECK = (
    "sglang:led_self_check",
    "Whether the self-check at launch found LED's steps right (1) or not (0), and something else "
    "serves; -1 where it is off.",
)


@hook("observability.metrics_collector.SchedulerMetricsCollector.__init__", "AFTER")
def _remember_labels(result: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    """SGLang makes a collector with `--enable-metrics` alone, before it loads the model; of ranks
    and stages the first one's is shown, and its counts are all of theirs."""
    global _labels
    if answers_here():
        _labels = dict(self.labels)


def are_shown() -> bool:
    """Whether this process has metrics of its scheduler."""
    return _labels is not None


def start(max_depth: int, checked: bool | None) -> None:
    """Show every counter at zero: what appears with its first count has none for `rate()`.

    Args:
        checked: what the self-check found right; None where it is off.
    """
    if _labels is not None:
        counters, by_depth, _, self_check = _prometheus()
        self_check.labels(**_labels).set(-1 if checked is None else checked)
        for counter in counters.values():
            counter.labels(**_labels)
        for depth in range(1, max_depth + 1):
            by_depth.labels(**_labels, depth=depth)


class ServerCounters:
    """Sums since the server started; see `Counters`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = dict.fromkeys(_COUNTERS, 0)
        self._by_depth: dict[int, int] = {}
        self._on_device = 0
        self._fell_back: bool | None = None

    def add(self, name: str, by: float = 1, depth: int | None = None) -> None:
        """Move a sum on, by exploration depth where `depth` is given."""
        if depth is None:
            self._sums[name] += by
        else:
            self._by_depth[depth] = self._by_depth.get(depth, 0) + int(by)
        if _labels is None or not by:
            return
        counters, by_depth, *_ = _prometheus()
        if depth is None:
            counters[name].labels(**_labels).inc(by)
        else:
            by_depth.labels(**_labels, depth=depth).inc(by)

    def projected_on_device(self, total: int) -> None:
        """What only the device counts, since the server started; an older total changes nothing."""
        if total > self._on_device:
            self.add("projected_rows", total - self._on_device)
            self._on_device = total

    def falls_back(self, fell_back: bool) -> None:
        """Whether steps run in torch where kernels were wanted."""
        if _labels is not None and fell_back is not self._fell_back:
            _prometheus()[2].labels(**_labels).set(fell_back)
            self._fell_back = fell_back

    def report(self) -> dict[str, Any]:
        """As it appears in `/server_info`."""
        think = self._sums["think_tokens"]
        return {
            **{name: total for name, total in self._sums.items() if name != "p1"},
            "mean_p1": self._sums["p1"] / think if think else None,
            "tokens_per_depth": {str(d): n for d, n in sorted(self._by_depth.items())},
        }


@cache
def _prometheus() -> tuple[dict[str, Any], Any, Any, Any]:
    """Prometheus' counters by the sum's name, that by depth, and the gauges of what fell back and
    of the self-check."""
    # Imported here: prometheus_client picks its value class from an environment variable that
    # SGLang sets at launch.
    from prometheus_client import Counter, Gauge

    names = list(_labels or ())
    return (
        {name: Counter(*shown, names) for name, shown in _COUNTERS.items()},
        Counter(*_BY_DEPTH, [*names, "depth"]),
        Gauge(*_FELL_BACK, names, multiprocess_mode="mostrecent"),
        Gauge(*_SELF_CHECK, names, multiprocess_mode="mostrecent"),
    )
