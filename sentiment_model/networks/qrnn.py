"""The quasi-recurrent network of Bradbury et al. (2017), whose gates see an input and may see the one before it.

    z[t] = sigmoid(W_z [x[t], x[t-1]] + b_z)
    o[t] = sigmoid(W_o [x[t], x[t-1]] + b_o)
    c[t] = tanh(W_c [x[t], x[t-1]] + b_c)
    s[t] = (1 - z[t]) * s[t-1] + z[t] * c[t]
    h[t] = o[t] * s[t]

This is their fo-pooling, with a filter two inputs wide; or one input wide, where the inputs are the outputs of another
such layer, which know of those before: Merity et al. (2018), "An Analysis of Neural Language Modeling at Multiple
Scales". The gates of all steps are one matrix product; only the states s go from step to step, element by element. On a
CPU what follows the product takes most of the time, and most of that is waiting for memory. It is therefore done for a
few steps at a time, whose numbers stay in a core's cache.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentiment_model.networks.precision import state_dtype
from sentiment_model.networks.scan import has_kernels, recur, recur_back

_CACHED = 40 * 1024  # outputs of the steps that are computed together


class QRNNLayer(nn.Module):
    """One quasi-recurrent layer: (time, batch, input_size) to (time, batch, hidden_size).

    Args:
        input_size: width of the inputs.
        hidden_size: width of the outputs.
        window: how many inputs the gates of a step see, 1 or 2.
    """

    def __init__(self, input_size: int, hidden_size: int, window: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.gates = nn.Linear(window * input_size, 3 * hidden_size)  # z, o and c, in this order

    def reset_parameters(self) -> None:
        """Initialise: a state is a mean over about the last four steps."""
        for weight, bias, value in zip(
            self.gates.weight.chunk(3), self.gates.bias.chunk(3), (-1.0, 0.0, 0.0), strict=True
        ):
            nn.init.xavier_uniform_(weight)
            nn.init.constant_(bias, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs h of every step, in the precision of the matrix product; states are at least float32."""
        if has_kernels(x):
            return self._forward_by_kernels(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if torch.is_grad_enabled():
            outputs: Tensor = _QRNN.apply(x, self.gates.weight, self.gates.bias, dtype)  # type: ignore[no-untyped-call]
            return outputs
        return _multiply_and_gate(_windows(x, self.gates.weight, dtype), self.gates.weight, self.gates.bias)

    def tabulate(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`look_up` needs to know of each of the inputs, shape (inputs, input_size); window is 2."""
        here, before = self.gates.weight.chunk(2, dim=1)
        return F.linear(inputs, here, self.gates.bias), F.linear(inputs, before)

    def look_up(self, table: tuple[Tensor, ...], ids: Tensor) -> Tensor:
        """Return the outputs for inputs of these numbers, shape (time, batch), without a matrix product."""
        here, before = table

        def logits(steps: slice) -> Tensor:
            found = F.embedding(ids[steps], here)
            first = max(steps.start, 1)
            found[first - steps.start :] += F.embedding(ids[first - 1 : steps.stop - 1], before)
            return found

        if has_kernels(here):
            from sentiment_model.networks import scan_cuda

            return scan_cuda.output_gated_scan(logits(slice(0, len(ids))))
        return _gate(logits, here.new_empty(*ids.shape, here.shape[1] // 3))

    def _forward_by_kernels(self, x: Tensor) -> Tensor:
        from sentiment_model.networks import scan_cuda

        if self.gates.in_features > x.shape[2]:
            before = F.pad(x, (0, 0, 0, 0, 1, 0))[:-1]
            x = torch.cat([x, before], dim=-1)
        return scan_cuda.output_gated_scan(self.gates(x))


class _QRNN(torch.autograd.Function):
    """The layer with its gradient written out: autograd's would be several tensors and kernels a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        windows = _windows(x, weight, dtype)
        trace = windows.new_empty(*windows.shape[:2], len(bias) // 3 * 4, dtype=state_dtype(dtype))
        outputs = _multiply_and_gate(windows, weight, bias, trace)
        ctx.save_for_backward(windows, weight, trace)
        ctx.dtype, ctx.size = x.dtype, x.shape[2]
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight, trace = ctx.saved_tensors
        logits = windows.new_empty(*windows.shape[:2], len(weight))  # their gradients
        first = torch.zeros_like(trace[0].chunk(4, dim=-1)[3])
        later = first  # gradient of the state before, through all that follow
        for steps in reversed(_parts(gradients[0])):
            update, output, candidate, states = trace[steps].chunk(4, dim=-1)
            to_update, to_output, to_candidate = logits[steps].chunk(3, dim=-1)
            keep = 1.0 - update
            total = gradients[0][steps] * output
            through = total * states
            to_output.copy_(through.addcmul_(through, output, value=-1.0))
            recur_back(keep, total, out=total, later=later)
            later = keep[0] * total[0]
            # The gradient of z's logit is d * z * (1 - z) * (c - s[t-1]), and z * (c - s[t-1]) is s[t] - s[t-1].
            before = trace[steps.start - 1].chunk(4, dim=-1)[3] if steps.start else first
            change = states - torch.cat([before.unsqueeze(0), states[:-1]])
            to_update.copy_(change.mul_(keep).mul_(total))
            through = total.mul_(update)
            to_candidate.copy_(through.addcmul_(through * candidate, candidate, value=-1.0))
        flat = logits.flatten(0, 1)
        here, *before = (flat @ weight.to(flat.dtype)).view_as(windows).split(ctx.size, dim=-1)
        to_x = here.to(ctx.dtype, copy=bool(before), memory_format=torch.contiguous_format)
        for gradient in before:
            to_x[:-1] += gradient[1:]
        to_weight = flat.t() @ windows.flatten(0, 1)
        return to_x, to_weight.to(weight.dtype), flat.sum(dim=0).to(weight.dtype), None


def _multiply_and_gate(windows: Tensor, weight: Tensor, bias: Tensor, trace: Tensor | None = None) -> Tensor:
    """Return the outputs of every step for what :func:`_windows` returned; the trace is as for :func:`_gate`."""
    dtype, (time, batch, _) = windows.dtype, windows.shape
    logits = torch.addmm(bias.to(dtype), windows.flatten(0, 1), weight.to(dtype).t()).view(time, batch, len(weight))
    return _gate(logits.__getitem__, windows.new_empty(time, batch, len(weight) // 3), trace)


def _gate(logits: Callable[[slice], Tensor], outputs: Tensor, trace: Tensor | None = None) -> Tensor:
    """Fill in the outputs of every step, shape (time, batch, hidden_size), and return them.

    Args:
        logits: returns those of z, o and c of some steps, shape (steps, batch, 3 * hidden_size).
        outputs: what to fill.
        trace: filled with z, o, c and s of every step, shape (time, batch, 4 * hidden_size).
    """
    _, batch, size = outputs.shape
    state = outputs.new_zeros(batch, size, dtype=state_dtype(outputs.dtype))
    for steps in _parts(outputs):
        # Side by side, since equal distances from a multiple of the page size make a CPU take one for another.
        kept = state.new_empty(*outputs[steps].shape[:2], 4 * size) if trace is None else trace[steps]
        kept[..., : 3 * size] = logits(steps)
        update, output, candidate, states = kept.chunk(4, dim=-1)
        candidate.mul_(2.0)
        kept[..., : 3 * size].sigmoid_()
        candidate.mul_(2.0).sub_(1.0)  # tanh(x) = 2 sigmoid(2 x) - 1, at a third of the time
        state = recur(update, candidate, out=states, before=state)[-1]
        torch.mul(output, states, out=outputs[steps])
    return outputs


def _windows(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the gates see of the inputs: each, and beside it the one before if the weights have a place for it.

    The shape is (time, batch, window * input_size).
    """
    time, batch, size = x.shape
    if weight.shape[1] == size:
        return x.to(dtype)
    pairs = x.new_empty(time, batch, 2 * size, dtype=dtype)
    pairs[..., :size] = x
    pairs[0, :, size:] = 0.0
    pairs[1:, :, size:] = pairs[:-1, :, :size]
    return pairs


def _parts(outputs: Tensor) -> list[slice]:
    """Return which steps to compute together; all of them where there is no cache to stay in."""
    time = len(outputs)
    length = max(1, _CACHED // outputs[0].numel()) if outputs.device.type == "cpu" else time
    return [slice(start, min(start + length, time)) for start in range(0, time, length)]
