"""Echoes and reverberation sample by sample, in plain torch over complete signals: the definition."""

import torch
from torch import Tensor


def realtime_delay(x: Tensor, delay: Tensor, feedback: Tensor, coefs: Tensor) -> Tensor:
    """Alternate two delay lines; see afx.kernels.realtime.realtime_delay."""
    rows, samples = x.shape
    delay, feedback, coefs = delay.expand(rows), feedback.double().expand(rows), coefs.double().expand(rows, -1)
    y = torch.zeros(rows, 2, samples, dtype=torch.float64)
    for r in range(rows):
        b0, b1, b2, a1, a2 = coefs[r]
        filtered = torch.zeros(2, samples, dtype=torch.float64)
        s1 = s2 = torch.zeros(2, dtype=torch.float64)
        for n in range(int(delay[r]), samples):
            past = n - int(delay[r])
            # The lines feed each other and the input only the odd one, so that echoes alternate between both outputs.
            y[r, 0, n] = x[r, past] + feedback[r] * filtered[1, past]
            y[r, 1, n] = feedback[r] * filtered[0, past]
            filtered[:, n] = b0 * y[r, :, n] + s1
            s1, s2 = b1 * y[r, :, n] - a1 * filtered[:, n] + s2, b2 * y[r, :, n] - a2 * filtered[:, n]
    return y.to(x.dtype)


def realtime_fdn(x: Tensor, feedback: Tensor, b: Tensor, c: Tensor, delays: Tensor, decay_fir: Tensor) -> Tensor:
    """Run the network's lines; see afx.kernels.realtime.realtime_fdn."""
    rows, _, samples = x.shape
    taps = decay_fir.shape[2]
    feedback, b, c, decay_fir = (t.double().expand(rows, -1, -1) for t in (feedback, b, c, decay_fir))
    # The time axis begins with zeros, the content of the lines before the first sample.
    reads = delays.expand(rows, -1) - taps // 2
    start = int(reads.max()) + taps
    lines = torch.zeros(rows, feedback.shape[1], start + samples, dtype=torch.float64)
    y = torch.zeros(rows, c.shape[1], samples, dtype=torch.float64)
    for n in range(samples):
        for r in range(rows):
            ends = start + n - reads[r]
            recent = torch.stack([line[e - taps + 1 : e + 1] for line, e in zip(lines[r], ends.tolist(), strict=True)])
            # The output is read before the decay filter, at the newest of its taps: hence K samples ahead.
            y[r, :, n] = c[r] @ recent[:, -1]
            decayed = (recent.flip(1) * decay_fir[r]).sum(1)
            lines[r, :, start + n] = feedback[r] @ decayed + b[r] @ x[r, :, n].double()
    return y.to(x.dtype)
