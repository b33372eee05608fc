"""The recurrence of :mod:`sentiment_model.networks.scan` on a GPU, with the gates around it: one kernel each way.

A program goes through all steps of a few units of one sequence. It computes gates from their logits where it needs
them, for the gradient too, so that only logits and states pass through memory, which is what takes the time. A loop
over PyTorch's operations would start a kernel for each step, and wait for most of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sentiment_model.networks.precision import state_dtype

_BLOCK = 128  # units that a program computes
_WARPS = 2  # two units a thread, since less than four bytes cannot be fetched ahead
_STAGES = 4  # steps whose numbers are on their way from memory at the same time


def scan(update_logits: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of every step, at least in float32; arguments are those of the function in `scan`."""
    return _Gates.apply(update_logits.contiguous(), candidate.contiguous())  # type: ignore[no-any-return, no-untyped-call]


def output_gated_scan(logits: Tensor) -> Tensor:
    """Return o * s for the states s of candidates tanh(c), in the precision of the logits.

    Args:
        logits: logits of z, of o and of c, side by side, shape (time, batch, 3 * hidden_size).
    """
    return _Gates.apply(logits.contiguous())  # type: ignore[no-any-return, no-untyped-call]


class _Gates(torch.autograd.Function):
    """Of two tensors, z and c, the states; of one, z, o and c side by side, what the output gate lets out of them."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        update, candidate, output = _split(tensors)
        dtype = state_dtype(update.dtype)
        out = update.new_empty(update.shape, dtype=dtype if output is None else update.dtype)
        kept = output is not None and any(ctx.needs_input_grad)
        states = update.new_empty(update.shape, dtype=dtype) if kept else None
        _launch(_forward, update, candidate, output, out, states, KEPT=kept)
        ctx.save_for_backward(out if output is None else states, *tensors)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        states, *tensors = ctx.saved_tensors
        into = tuple(torch.empty_like(tensor) for tensor in tensors)
        _launch(_backward, *_split(tensors), states, gradients[0].contiguous(), *_split(into))
        return into


def _split(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return those of z, c and o."""
    if len(tensors) == 2:
        return tensors[0], tensors[1], None
    update, output, candidate = tensors[0].chunk(3, dim=-1)
    return update, candidate, output


def _launch(
    kernel: Any, update: Tensor, candidate: Tensor, output: Tensor | None, *others: Tensor | None, **constants: bool
) -> None:
    time, batch, size = update.shape
    with torch.cuda.device(update.device):
        kernel[batch, triton.cdiv(size, _BLOCK)](
            *(update, candidate, output, *others),
            *(update.stride(0), update.stride(1), time, size, batch * size),
            GATED=output is not None,
            DTYPE=tl.float64 if update.dtype == torch.float64 else tl.float32,
            BLOCK=_BLOCK,
            STAGES=_STAGES,
            num_warps=_WARPS,
            **constants,
        )


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    update, candidate, output, out, states,
    step, row, time, size, states_step,
    GATED: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < size
    place = sequence * row + unit
    flat = sequence * size + unit
    state = tl.zeros([BLOCK], DTYPE)
    for _ in tl.range(time, num_stages=STAGES):
        z = tl.sigmoid(tl.load(update + place, mask=inside).to(DTYPE))
        c = tl.load(candidate + place, mask=inside).to(DTYPE)
        if GATED:
            c = 2.0 * tl.sigmoid(2.0 * c) - 1.0
        state += z * (c - state)
        if GATED:
            o = tl.sigmoid(tl.load(output + place, mask=inside).to(DTYPE))
            tl.store(out + flat, o * state, mask=inside)
            if KEPT:
                tl.store(states + flat, state, mask=inside)
        else:
            tl.store(out + flat, state, mask=inside)
        place += step
        flat += states_step


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    update, candidate, output, states, gradient, to_update, to_candidate, to_output,
    step, row, time, size, states_step,
    GATED: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < size
    last = tl.cast(time, tl.int64) - 1
    place = sequence * row + unit + last * step
    flat = sequence * size + unit + last * states_step
    through = tl.zeros([BLOCK], DTYPE)  # gradient of a state through all later ones
    for _ in tl.range(time, num_stages=STAGES):
        z = tl.sigmoid(tl.load(update + place, mask=inside).to(DTYPE))
        c = tl.load(candidate + place, mask=inside).to(DTYPE)
        before = tl.load(states + flat - states_step, mask=inside & (flat >= states_step), other=0.0)
        total = tl.load(gradient + flat, mask=inside).to(DTYPE)
        if GATED:
            c = 2.0 * tl.sigmoid(2.0 * c) - 1.0
            o = tl.sigmoid(tl.load(output + place, mask=inside).to(DTYPE))
            state = tl.load(states + flat, mask=inside)
            tl.store(to_output + place, total * state * o * (1.0 - o), mask=inside)
            total *= o
        total += through
        to_c = total * z
        if GATED:
            to_c *= 1.0 - c * c
        tl.store(to_candidate + place, to_c, mask=inside)
        tl.store(to_update + place, total * (c - before) * z * (1.0 - z), mask=inside)
        through = total * (1.0 - z)
        place -= step
        flat -= states_step
