"""The loops of :mod:`sentiment_model.networks.scan_cpu`: a review after the other, all units of a step at once."""

import numpy as np

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import Numbers, read, sigmoid, write

_ONE, _TWO = np.float32(1.0), np.float32(2.0)


@compiled
def states_of(update: Numbers, candidate: Numbers, states: Numbers, first: int, end: int) -> None:
    """Write the states of some sequences.

    Args:
        update: logits of z, shape (time, batch, units).
        candidate: c, of the same shape.
        states: filled with the states, of the same shape.
        first: number of the first sequence.
        end: number of the one after the last.
    """
    steps, _, units = states.shape
    state = np.empty(units, states.dtype)
    for sequence in range(first, end):
        state[:] = 0
        for step in range(steps):
            logits, candidates, out = update[step, sequence], candidate[step, sequence], states[step, sequence]
            for unit in range(units):
                state[unit] += sigmoid(read(logits[unit])) * (read(candidates[unit]) - state[unit])
                out[unit] = state[unit]


@compiled
def states_back(
    update: Numbers,
    candidate: Numbers,
    states: Numbers,
    gradient: Numbers,
    to_update: Numbers,
    to_candidate: Numbers,
    first: int,
    end: int,
) -> None:
    """Write the gradients of what :func:`states_of` was given, for one of the states.

    The gradient of a state through all later ones is carried from step to step.
    """
    steps, _, units = states.shape
    through, start = np.empty(units, states.dtype), np.zeros(units, states.dtype)
    for sequence in range(first, end):
        through[:] = 0
        for step in range(steps - 1, -1, -1):
            logits, candidates, wanted = update[step, sequence], candidate[step, sequence], gradient[step, sequence]
            before = states[step - 1, sequence] if step else start
            to_logits, to_candidates = to_update[step, sequence], to_candidate[step, sequence]
            for unit in range(units):
                z = sigmoid(read(logits[unit]))
                total = wanted[unit] + through[unit]
                write(to_candidates, unit, total * z)
                write(to_logits, unit, total * (read(candidates[unit]) - before[unit]) * z * (_ONE - z))
                through[unit] = total * (_ONE - z)


@compiled
def outputs_of(logits: Numbers, bias: Numbers, outputs: Numbers, states: Numbers, first: int, end: int) -> None:
    """Write the outputs and the states of some sequences.

    Args:
        logits: of z, o and c, side by side, without the bias, shape (time, batch, 3 * units).
        bias: of the logits, shape (3 * units,).
        outputs: filled with o * s, shape (time, batch, units).
        states: filled with s, of the same shape.
        first: number of the first sequence.
        end: number of the one after the last.
    """
    steps, _, units = states.shape
    state = np.empty(units, states.dtype)
    bias_z, bias_o, bias_c = bias[:units], bias[units : 2 * units], bias[2 * units :]
    for sequence in range(first, end):
        state[:] = 0
        for step in range(steps):
            line, out, kept = logits[step, sequence], outputs[step, sequence], states[step, sequence]
            update, output, candidate = line[:units], line[units : 2 * units], line[2 * units :]
            for unit in range(units):
                c = _TWO * sigmoid(_TWO * (read(candidate[unit]) + bias_c[unit])) - _ONE  # tanh
                state[unit] += sigmoid(read(update[unit]) + bias_z[unit]) * (c - state[unit])
                kept[unit] = state[unit]
                write(out, unit, sigmoid(read(output[unit]) + bias_o[unit]) * state[unit])


@compiled
def outputs_back(
    logits: Numbers,
    bias: Numbers,
    states: Numbers,
    gradient: Numbers,
    to_logits: Numbers,
    to_bias: Numbers,
    first: int,
    end: int,
) -> None:
    """Write the gradients of the logits that :func:`outputs_of` was given, for one of its outputs.

    The gradients of the bias are left for each sequence, shape (batch, 3 * units).
    """
    steps, _, units = states.shape
    through, start = np.empty(units, states.dtype), np.zeros(units, states.dtype)
    bias_z, bias_o, bias_c = bias[:units], bias[units : 2 * units], bias[2 * units :]
    for sequence in range(first, end):
        through[:] = 0
        to_bias[sequence, :] = 0
        of_bias = to_bias[sequence]
        of_z, of_o, of_c = of_bias[:units], of_bias[units : 2 * units], of_bias[2 * units :]
        for step in range(steps - 1, -1, -1):
            line, back, wanted = logits[step, sequence], to_logits[step, sequence], gradient[step, sequence]
            update, output, candidate = line[:units], line[units : 2 * units], line[2 * units :]
            to_update, to_output, to_candidate = back[:units], back[units : 2 * units], back[2 * units :]
            state, before = states[step, sequence], states[step - 1, sequence] if step else start
            for unit in range(units):
                z, o = sigmoid(read(update[unit]) + bias_z[unit]), sigmoid(read(output[unit]) + bias_o[unit])
                c = _TWO * sigmoid(_TWO * (read(candidate[unit]) + bias_c[unit])) - _ONE
                let_out = read(wanted[unit]) * o
                total = let_out + through[unit]
                by_o = let_out * state[unit] * (_ONE - o)
                by_c = total * z * (_ONE - c * c)
                by_z = total * (c - before[unit]) * z * (_ONE - z)
                write(to_output, unit, by_o)
                write(to_candidate, unit, by_c)
                write(to_update, unit, by_z)
                of_o[unit] += by_o
                of_c[unit] += by_c
                of_z[unit] += by_z
                through[unit] = total * (_ONE - z)
