"""Sums over all requests: for `/server_info`, and as Prometheus counters beside SGLang's own."""

from __future__ import annotations

from functools import cache
from typing import Any

from led_sglang.patches.hooks import hook

# Of this scheduler's metrics (model name, ranks, `--extra-metric-labels`); None without them.
_labels: dict[str, Any] | None = None


@hook("observability.metrics_collector.SchedulerMetricsCollector.__init__", "AFTER")
def _remember_labels(result: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    """SGLang makes a collector with `--enable-metrics` alone."""
    global _labels
    _labels = dict(self.labels)


class ServerCounters:
    """Sums since the server started; see `Counters`."""

    def __init__(self) -> None:
        names = ("think_tokens", "explored_tokens", "projected_rows", "steps")
        self._sums = dict.fromkeys(names, 0)
        self._by_depth: dict[int, int] = {}

    def add(self, name: str, by: int = 1, depth: int | None = None) -> None:
        """Move a sum on, by exploration depth where `depth` is given."""
        by_depth = {}
        if depth is None:
            self._sums[name] += by
        else:
            self._by_depth[depth] = self._by_depth.get(depth, 0) + by
            by_depth = {"depth": str(depth)}
        if _labels is not None and by and name in _prometheus():
            _prometheus()[name].labels(**_labels, **by_depth).inc(by)

    def report(self, on_device: int) -> dict[str, Any]:
        """As it appears in `/server_info`; `on_device`: rows that only the GPU has counted."""
        return {
            **self._sums,
            "projected_rows": self._sums["projected_rows"] + on_device,
            "tokens_per_depth": {str(d): n for d, n in sorted(self._by_depth.items())},
        }


@cache
def _prometheus() -> dict[str, Any]:
    """Prometheus counters by the sum's name."""
    # Imported here: prometheus_client picks its value class from an environment variable that
    # SGLang sets at launch.
    from prometheus_client import Counter

    names = list(_labels or ())
    # Prometheus shows a counter as NAME_total.
    return {
        "think_tokens": Counter(
            "sglang:led_think_tokens", "Tokens sampled in the think phase.", names
        ),
        "explored_tokens": Counter(
            "sglang:led_explored_tokens", "Tokens sampled from a latent mix.", names
        ),
        "tokens_per_depth": Counter(
            "sglang:led_depth_tokens", "Explored tokens by chosen depth.", [*names, "depth"]
        ),
    }
