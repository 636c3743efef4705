"""Echoes and reverberation sample by sample, with a state between blocks for streaming; without gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.afx.kernels.backends import backend

run = backend("realtime")


@dataclass
class DelayState:
    """State of the ping-pong delay between blocks; updated in place."""

    lines: Tensor  # (R, 2, longest delay) float64, circular
    filters: Tensor  # (R, 2, 2) float64, of the low-pass at the end of each line
    position: int = 0  # samples since the start

    @classmethod
    def fresh(cls, rows: int, delay: Tensor) -> "DelayState":
        """Return `rows` silent pairs of lines for delays (R or 1,)."""
        lines = torch.zeros(rows, 2, int(delay.max()), dtype=torch.float64)
        return cls(lines, torch.zeros(rows, 2, 2, dtype=torch.float64))


@dataclass
class FdnState:
    """State of the network between blocks; updated in place."""

    lines: Tensor  # (R, M, longest delay + half the decay filter) float64, circular
    position: int = 0  # samples since the start

    @classmethod
    def fresh(cls, rows: int, delays: Tensor, taps: int) -> "FdnState":
        """Return `rows` silent networks for delays (R or 1, M) and decay filters of `taps` taps."""
        # With K = taps // 2: a line is read m - K samples late and filtered over 2 K samples before that, m + K in all.
        return cls(torch.zeros(rows, delays.shape[1], int(delays.max()) + taps // 2, dtype=torch.float64))


def realtime_delay(
    x: Tensor, delay: Tensor, feedback: Tensor, coefs: Tensor, state: DelayState | None = None
) -> Tensor:
    """Compute echoes that alternate between two outputs and are filtered once per round trip.

        odd[n] = x[n - D] + feedback * lp(even)[n - D],   even[n] = feedback * lp(odd)[n - D]

    Echo k = 1, 2, ... is at k D, has the gain feedback^(k-1) and is filtered k - 1 times by lp.

    Args:
        x: (R, T) float32 or float64.
        delay: D (R or 1,) whole samples, at least 1.
        feedback: (R or 1,), used in float64.
        coefs: (R or 1, 5) with b0, b1, b2, a1, a2 of lp (a0 = 1), used in float64.
        state: initial state, updated in place to the final one; None for silence. The outputs of consecutive blocks
            of any size equal exactly those of one call over all of them.

    Returns:
        (R, 2, T), the odd and the even echoes, in the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above, or a state for other delays.

    Source: the real-time form of Yu et al., DiffVox, DAFx25, arXiv 2504.14735.
    """
    _check_audio(x, 2, "(rows, samples)")
    rows = len(x)
    _check_rows(rows, delay=(delay, ()), feedback=(feedback, ()), coefs=(coefs, (5,)))
    delay = _integer_delays("delay", delay, 1)
    state = DelayState.fresh(rows, delay) if state is None else state
    _check_lines(state.lines, (rows, 2), int(delay.max()))
    coefs = torch.cat([feedback.double().unsqueeze(-1).expand(rows, 1), coefs.double().expand(rows, 5)], 1)
    # On the CPU whatever the device of x: the GPU's back end has no such loops.
    inputs = (t.cpu() for t in (x, delay.expand(rows), coefs))
    y = run("realtime_delay", *inputs, state.lines, state.filters, state.position)
    state.position += x.shape[-1]
    return y.to(x.device)


def realtime_fdn(
    x: Tensor,
    feedback: Tensor,
    b: Tensor,
    c: Tensor,
    delays: Tensor,
    decay_fir: Tensor,
    state: FdnState | None = None,
) -> Tensor:
    """Run a feedback delay network whose lines decay through linear-phase filters of L = 2 K + 1 taps.

        line_i[n] = in_i[n - m_i + K],   in[n] = U (fir * line)[n] + b x[n],   y[n] = c line[n]

    The filter delays by K samples; the line is read K samples early to compensate, so that a round trip takes m_i. The
    output is therefore K samples ahead of that of the sampled form, fdn_response.

    Args:
        x: (R, I, T) float32 or float64.
        feedback: U (R or 1, M, M). This and all below are used in float64.
        b: (R or 1, M, I). c: (R or 1, O, M).
        delays: m (R or 1, M) whole samples, more than K.
        decay_fir: (R or 1, M, L), L odd; see afx.functional.fdn.decay_fir.
        state: initial state, updated in place to the final one; None for silence. The outputs of consecutive blocks
            of any size equal exactly those of one call over all of them.

    Returns:
        (R, O, T), the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above, or a state for other delays.

    Source: the real-time form of Yu et al., DiffVox, DAFx25, arXiv 2504.14735.
    """
    _check_audio(x, 3, "(rows, inputs, samples)")
    rows, inputs, samples = x.shape
    lines, taps = feedback.shape[-1], decay_fir.shape[-1]
    tensors = {
        "feedback": (feedback, (lines, lines)),
        "b": (b, (lines, inputs)),
        "c": (c, (*c.shape[1:2], lines)),
        "delays": (delays, (lines,)),
        "decay_fir": (decay_fir, (lines, taps // 2 * 2 + 1)),
    }
    _check_rows(rows, **tensors)
    # More than K, so that a line is read at least one sample after it is written.
    delays = _integer_delays("delays", delays, taps // 2 + 1)
    state = FdnState.fresh(rows, delays, taps) if state is None else state
    _check_lines(state.lines, (rows, lines), int(delays.max()) + taps // 2)
    network = (t.cpu().double().expand(rows, -1, -1) for t in (feedback, b, c, decay_fir))
    reads = (delays.cpu() - taps // 2).expand(rows, lines)
    y = run("realtime_fdn", x.cpu(), *network, reads, state.lines, state.position)
    state.position += samples
    return y.to(x.device)


def _check_audio(x: Tensor, dimensions: int, allowed: str) -> None:
    if x.ndim != dimensions or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}; give {allowed} in float32 or float64")


def _check_rows(rows: int, **named: tuple[Tensor, tuple[int, ...]]) -> None:
    for name, (tensor, shape) in named.items():
        if tensor.ndim == 0 or len(tensor) not in (1, rows) or tuple(tensor.shape[1:]) != shape:
            allowed = "".join(f", {size}" for size in shape)
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give ({rows} or 1{allowed})")


def _integer_delays(name: str, delay: Tensor, least: int) -> Tensor:
    """Return the delays in int64; ValueError unless they are integers of at least `least`."""
    if delay.is_floating_point() or int(delay.min()) < least:
        raise ValueError(f"{name} are {delay.tolist()} ({delay.dtype}); give whole samples, at least {least}")
    return delay.long()


def _check_lines(lines: Tensor, shape: tuple[int, int], length: int) -> None:
    if tuple(lines.shape) != (*shape, length):
        raise ValueError(f"the state's lines are {tuple(lines.shape)}; make a fresh one for {(*shape, length)}")
