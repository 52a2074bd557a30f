"""Who explores, and the list of latent rows that need the LM head (docs/method.md#gate).

The list is a prefix sum, never an atomic counter: ranks of a tensor-parallel group must agree on
the order of rows without a word between them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import float64

from ..phase import ThinkPhase
from ..types import FinalPosterior, Gate, LedRows, NoiseStream, StepNoise
from .launch import Arguments, Kernel
from .workspace import StepWorkspace

_ALWAYS = tl.constexpr(int(Gate.ALWAYS))
_NEVER = tl.constexpr(int(Gate.NEVER))
_ENTROPY = tl.constexpr(int(Gate.ENTROPY))
_RATE = tl.constexpr(int(Gate.RATE))

_ROWS_AT_ONCE = 256


@triton.jit(
    do_not_specialize=["moves", "tracked", "begins", "batch", "layers"],
    do_not_specialize_on_alignment=[
        *("stream_step", "slots", "initial", "p1", "entropy", "gate_noise", "gate", "gate_value"),
        *("greedy", "random_gate", "led", "always_thinks", "projects", "depth"),
    ],
)
def gate_kernel(
    stream_step,  # [1] int64
    moves,  # how far the stream of noise moves on: every program of the step before has read it
    tracked,  # whether there is a think phase; the next six are read then
    slots,  # [B] int64
    begins,  # whether there are initial states
    initial,  # [B] int64, -1: the state of the slot
    states,  # [slots] int64
    thinking,  # [states] bool
    phases,  # [states] int64
    p1,  # [B] f32
    entropy,  # [B] f32
    gate_noise,  # [B] f64
    gate,  # [B] int64
    gate_value,  # [B] f32
    greedy,  # [B] bool, as the next four
    random_gate,
    led,
    always_thinks,
    projects,
    depth,  # [B] int64
    explored_out,  # [B] bool
    explore_probability,  # [B] f64
    projected_out,  # [B] bool
    owned_out,  # [B] bool
    thinks_out,  # [B] bool
    state_out,  # [B] int64, before this step's token
    phase_out,  # [B] int64
    live_rows,  # [capacity] int32, the list: request * layers + layer
    live_count,  # [1] int32
    live_total,  # [1] int64, which this list's length is added to
    batch,
    layers,
    THINK: tl.constexpr,
    ROWS: tl.constexpr,
):
    listed = 0
    for first in range(0, batch, ROWS):
        row = first + tl.arange(0, ROWS)
        real = row < batch
        is_led = tl.load(led + row, mask=real, other=False)
        drawn = tl.load(random_gate + row, mask=real, other=False)
        thinks = tl.load(always_thinks + row, mask=real, other=False)
        state = tl.zeros([ROWS], tl.int64)
        phase = tl.full([ROWS], THINK, tl.int64)
        owned = is_led
        if tracked != 0:
            state = tl.load(states + tl.load(slots + row, mask=real, other=0), mask=real, other=0)
            if begins != 0:
                start = tl.load(initial + row, mask=real, other=-1)
                state = tl.where(start < 0, state, start)
            thinks = thinks | tl.load(thinking + state)
            phase = tl.load(phases + state)
            owned = is_led & (thinks | drawn)
        may = owned & thinks

        certainty = tl.load(p1 + row, mask=real, other=1.0).to(tl.float64)
        value = tl.load(gate_value + row, mask=real, other=0.0)
        kind = tl.load(gate + row, mask=real, other=_NEVER)
        is_greedy = tl.load(greedy + row, mask=real, other=False)
        wanted = tl.load(projects + row, mask=real, other=False)
        noise = tl.load(gate_noise + row, mask=real, other=1.0)
        probability = 1.0 - certainty
        probability = tl.where(kind == _ALWAYS, 1.0, probability)
        probability = tl.where(kind == _NEVER, 0.0, probability)
        above = tl.load(entropy + row, mask=real, other=0.0) > value
        probability = tl.where(kind == _ENTROPY, above.to(tl.float64), probability)
        probability = tl.where(kind == _RATE, value.to(tl.float64), probability)
        likelier = (probability > 0.5).to(tl.float64)
        probability = tl.where(is_greedy & (drawn == 0), likelier, probability)
        probability = tl.where(may, probability, 0.0)
        explored = noise < probability
        projected = explored | (may & wanted)
        tl.store(explored_out + row, explored, mask=real)
        tl.store(explore_probability + row, probability, mask=real)
        tl.store(projected_out + row, projected, mask=real)
        tl.store(owned_out + row, owned, mask=real)
        tl.store(thinks_out + row, thinks & is_led, mask=real)
        tl.store(state_out + row, state, mask=real)
        tl.store(phase_out + row, phase, mask=real)

        live = tl.load(depth + row, mask=real, other=1).to(tl.int32) - 1
        live = tl.where(projected & real, tl.minimum(live, layers), 0)
        place = listed + tl.cumsum(live, 0) - live
        for layer in range(0, layers):
            in_list = layer < live
            tl.store(live_rows + place + layer, row * layers + layer, mask=in_list)
        listed += tl.sum(live, 0)
    tl.store(live_count, listed)
    tl.store(live_total, tl.load(live_total) + listed)
    tl.store(stream_step, tl.load(stream_step) + moves)


class GateRows:
    """The gate of every row, and the list of live latent rows.

    Args:
        workspace: takes what `StepWorkspace` lists under the gate.
    """

    def __init__(self, workspace: StepWorkspace) -> None:
        self._workspace = workspace
        self._kernel = Kernel(gate_kernel, 4, THINK=1, ROWS=_ROWS_AT_ONCE)

    def staying(
        self, final: FinalPosterior, noise: StepNoise, rows: LedRows, layers: int
    ) -> Arguments:
        """The arguments of a batch; layers: latent layers per request."""
        batch, workspace = len(final.p1), self._workspace
        columns = (
            *(final.p1, final.entropy, noise.gate, rows.gate, rows.gate_value, rows.greedy),
            *(rows.random_gate, rows.owns, rows.thinks, rows.projects, rows.depth),
        )
        assert batch <= workspace.batch
        assert layers <= workspace.layers
        assert noise.gate.dtype == float64
        assert all(column.shape == (batch,) for column in columns)
        return Arguments(
            *(column.contiguous() for column in columns),
            *(workspace.explored, workspace.explore_probability, workspace.projected),
            *(workspace.owned, workspace.thinks, workspace.states, workspace.phases),
            *(workspace.live_rows, workspace.live_count, workspace.live_total),
            *(batch, layers),
        )

    def bind(self, staying: Arguments) -> None:
        """Compile it, and launch it once."""
        self._kernel.bind((1, 1), self._changing(None, None), staying)

    def __call__(
        self,
        stream: object,
        moves: NoiseStream | None,
        phase: ThinkPhase | None,
        staying: Arguments,
    ) -> None:
        """Launch it.

        Args:
            moves: the stream of noise, which moves on by one step.
            phase: of the rows; None: `LedRows.owns` and `thinks` say all.
        """
        self._kernel(stream, (1, 1), self._changing(moves, phase), staying)

    def _changing(self, moves: NoiseStream | None, phase: ThinkPhase | None) -> tuple[object, ...]:
        unread, no_flag = self._workspace.states, self._workspace.thinks
        noise: tuple[object, ...] = (self._workspace.no_step, 0)
        if moves is not None:
            noise = (moves.step, 1)
        if phase is None:
            return (*noise, 0, unread, 0, unread, unread, no_flag, unread)
        begins = phase.initial is not None
        return (
            *noise,
            1,
            phase.slots,
            int(begins),
            phase.initial if begins else unread,
            phase.states,
            phase.tables.thinks,
            phase.tables.phases,
        )
