"""LED's Prometheus counters, under the labels of SGLang's own scheduler metrics."""

from __future__ import annotations

from functools import cache
from typing import Any

from led_sglang.patches.hooks import hook

from led_sglang.telemetry import ServerTotals

# Of this scheduler's metrics (model name, ranks, `--extra-metric-labels`); None without them.
_labels: dict[str, Any] | None = None
_published = ServerTotals()


@hook("observability.metrics_collector.SchedulerMetricsCollector.__init__", "AFTER")
def _remember_labels(result: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    """SGLang makes a collector with `--enable-metrics` alone."""
    global _labels
    _labels = dict(self.labels)


def publish(totals: ServerTotals) -> None:
    """Bring the counters up to the totals; nothing without `--enable-metrics`."""
    if _labels is None:
        return
    think, explored, depths = _counters()
    think.labels(**_labels).inc(totals.think_tokens - _published.think_tokens)
    explored.labels(**_labels).inc(totals.explored_tokens - _published.explored_tokens)
    _published.think_tokens = totals.think_tokens
    _published.explored_tokens = totals.explored_tokens
    for depth, count in totals.tokens_per_depth.items():
        new = count - _published.tokens_per_depth.get(depth, 0)
        if new:
            depths.labels(**_labels, depth=str(depth)).inc(new)
            _published.tokens_per_depth[depth] = count


@cache
def _counters() -> tuple[Any, Any, Any]:
    # Imported here: prometheus_client picks its value class from an environment variable that
    # SGLang sets at launch.
    from prometheus_client import Counter

    names = list(_labels or ())
    # Prometheus shows a counter as NAME_total.
    return (
        Counter("sglang:led_think_tokens", "Tokens sampled in the think phase.", names),
        Counter("sglang:led_explored_tokens", "Tokens sampled from a latent mix.", names),
        Counter("sglang:led_depth_tokens", "Explored tokens by chosen depth.", [*names, "depth"]),
    )
