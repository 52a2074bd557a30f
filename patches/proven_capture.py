"""At launch the running engine proves the captured layers, or the launch ends with figures.

For an architecture of the table its method is examined (truncation.py). One that the table does not
know is tried by each method in turn, where the user asks for it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.runtime_context import get_model, get_parallel

from led_sglang.banner import print_note
from led_sglang.patches.capture import Captured, capture_of, keep, offered, refusal
from led_sglang.patches.families import CAPTURES
from led_sglang.patches.hooks import hook
from led_sglang.patches.lm_head import decoder_stack, final_norm
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.short_prefill import ShortPrefill, eagerly
from led_sglang.patches.stages import from_the_last_stage
from led_sglang.patches.truncation import Finding, Meter, examine, said, widest_input
from led_sglang.settings import LaunchRefused, ServerSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """For `/server_info`.

    Attributes:
        mode: `--led-truncation-check`.
        method: by which the layers are captured.
        skipped: why nothing was compared, or not the lowest layer; None where all was.
        layers: by l, the relative distance of norm(h^l) from what the model's own head reads at l,
            and that of the nearest other layer (infinite where there is none); None where nothing
            was compared.
        seconds: that it took.
        bytes: of memory, at its worst moment.
    """

    mode: str
    method: str
    skipped: str | None = None
    layers: dict[int, tuple[float, float]] | None = None
    seconds: float = 0.0
    bytes: int = 0

    def shown(self) -> dict[str, Any]:
        """As it appears there."""
        layers = None
        if self.layers is not None:
            layers = {
                f"h^{layer}": (own, other if math.isfinite(other) else None)
                for layer, (own, other) in self.layers.items()
            }
        return vars(self) | {"layers": layers}


@hook("model_executor.model_runner_components.cuda_graph_setup.capture_prefill_graph", "BEFORE")
def _before_graphs(
    *, model_runner: Any, eager_runner: Any, force_for_draft_worker: bool = False
) -> None:
    """SGLang's runner without graphs is ready and its kernels are warm; no graph is captured."""
    settings, sampler = settings_or_none(), model_runner.sampler
    if settings is None or sampler.proof is not None:
        return  # graphs are captured anew
    capture = capture_of(model_runner.model)

    def proven() -> Report | None:
        return None if capture is None else prove(model_runner, settings, capture)

    with ending_with_a_sentence(), eagerly(model_runner, eager_runner):
        sampler.proof = from_the_last_stage(proven)


@dataclass(frozen=True)
class Verdict:
    """What all ranks found together; `unread` and `layers` are this rank's."""

    wrong: str | None
    unable: str | None
    unread: str | None
    layers: dict[int, tuple[float, float]]


def prove(runner: Any, settings: ServerSettings, capture: Captured) -> Report:
    """Examine what is captured, on all ranks alike; of several stages, on those of the last one.

    Args:
        runner: SGLang's model runner, which can prefill eagerly.
        settings: the server's.
        capture: what is installed in the model. For an unknown architecture that is the first way
            that could be; what is proven takes its place.

    Raises:
        LaunchRefused: what is captured is not what the model's own head reads; with figures.
    """
    architecture = settings.architecture
    if settings.truncation_check == "off":
        return Report("off", CAPTURES[architecture].method)
    with Meter(torch.device(runner.device)) as meter:
        if settings.unproven:
            capture.remove()
            method, verdict = first_proven(runner, settings)
        else:
            method = CAPTURES[architecture].method
            verdict = _examined(runner, settings, capture)
    if verdict.wrong is not None:
        reason = f"as {method} captures them, {verdict.wrong}"
        way_out = "leave this check out (--led-truncation-check off)"
        raise LaunchRefused(refusal(architecture, reason, way_out))
    layers = None if verdict.unable else verdict.layers
    skipped = verdict.unable or verdict.unread
    report = Report("on", method, skipped, layers, *meter.cost())
    if get_parallel().tp_rank == 0:
        _tell(report, architecture, settings.unproven)
    return report


def _tell(report: Report, architecture: str, unproven: bool) -> None:
    cost = f"{report.seconds:.2f} s, {report.bytes / 2**20:.1f} MB"
    if report.layers is None:
        logger.warning("LED's captured layers are not checked: %s (%s).", report.skipped, cost)
        return
    own = max(own for own, _ in report.layers.values())
    other = min(other for _, other in report.layers.values())
    logger.info(
        "LED's %d captured layers are what the model's own head reads there, to %.1e; the nearest "
        "other layer differs by %.2g (%s).",
        len(report.layers),
        own,
        other,
        cost,
    )
    if unproven:
        print_note(
            f"{architecture} is not in LED's table: its layers are captured by {report.method}, "
            "the first way that the check at launch has proven"
        )


def first_proven(runner: Any, settings: ServerSettings) -> tuple[str, Verdict]:
    """Try the ways to capture a model until one is proven, and leave that one installed.

    Raises:
        LaunchRefused: none is, or the architecture is of a kind that none can be.
    """
    model, architecture = runner.model, settings.architecture
    _refuse_several_streams(runner, architecture)
    tried = []
    layer_ids = [layer - 1 for layer in settings.captured]
    for method, capture in offered(model, settings.num_layers, layer_ids):
        if isinstance(capture, str):
            tried.append(f"{method}: {capture}")
            continue
        verdict = _examined(runner, settings, capture)
        fault = verdict.wrong or verdict.unable
        if fault is None:
            keep(model, capture)
            return method, verdict
        capture.remove()
        tried.append(f"{method}: {fault}")
    raise LaunchRefused(refusal(architecture, "no way to capture them holds: " + "; ".join(tried)))


def _refuse_several_streams(runner: Any, architecture: str) -> None:
    """Refuse what passes on more between its layers than one stream h^l."""
    hidden_size = int(runner.model_config.hidden_size)
    try:
        width = widest_input(decoder_stack(runner.model), ShortPrefill(runner).run)
    except Exception as error:  # models raise their own
        reason = f"a short prefill fails before the server serves ({said(error)})"
        raise LaunchRefused(refusal(architecture, reason)) from None
    if width > hidden_size:
        reason = (
            f"its layers pass on {width:g} numbers a token where one stream has {hidden_size}, and "
            "only its table could say what of them is h^l"
        )
        raise LaunchRefused(refusal(architecture, reason))


def _examined(runner: Any, settings: ServerSettings, capture: Captured) -> Verdict:
    """What the ranks find of a capture: the first rank's fault, or else the first one's inability.

    Ranks decide together: all of them serve, try the next way or end.
    """
    model = runner.model
    if get_model().is_startup_weight_load_overlap:
        finding = Finding(unable="SGLang loads the weights while it starts")
    else:
        finding = examine(
            decoder_stack(model),
            capture,
            final_norm(model),
            settings.captured,
            int(runner.model_config.hidden_size),
            ShortPrefill(runner).run,
            lambda here: all(get_parallel().tp_group.all_gather_object(here)),
        )
    mine = (finding.wrong(), finding.unable)
    everyone = get_parallel().tp_group.all_gather_object(mine)
    wrong, unable = (
        next((_on_rank(r, what, len(everyone)) for r, what in enumerate(which) if what), None)
        for which in zip(*everyone, strict=True)
    )
    layers = {depth.layer: (depth.own, depth.other) for depth in finding.depths}
    return Verdict(wrong, unable, finding.unread, layers)


def _on_rank(rank: int, what: str, ranks: int) -> str:
    return f"on rank {rank} {what}" if ranks > 1 else what
