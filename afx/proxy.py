"""The neural proxy of the compressor: a temporal convolutional network replaces its attack and release.

Data flow for audio (B, C, T): static gain reduction (B, 1, T) in dB → frames (B, 1, K, N), N = FRAME → 21 features per
frame (B, 21, K) → network → smoothed reduction at the end of each frame (B, 1, K) → samples (B, 1, T).
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors

from .dynamics import Compressor
from .functional.level import tau_to_coef
from .functional.units import db_to_gain
from .param import Bounded

#: The weights of the release; `proxy.md` in the same folder describes their training and accuracy.
WEIGHTS = Path(__file__).parent / "weights" / "proxy.pt"
#: Sample rate in Hz of the training data; at another one, time constants are scaled to the same number of samples.
TRAINED_SR = 44100
RATES = (44100, 48000)
#: Samples per frame.
FRAME = 32
#: Features of a frame: thresholds relative to its peak, and exponents of power means.
QUARTERS = (0.25, 0.5, 0.75)
POWERS = (2, 4)
#: Lowest gain reduction in dB that roots and logarithms resolve; it bounds their gradients.
FAINT_DB = 1e-2


class Block(nn.Module):
    """Causal dilated convolution, scaled by the conditions (FiLM without shifts), PReLU, and a residual path.

    Without padding: (B, n_in, K) to (B, width, K - reach).
    """

    def __init__(self, n_in: int, width: int, kernel: int, dilation: int, n_conditions: int) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(n_in, width, kernel, dilation=dilation, bias=False)
        self.film = nn.Linear(n_conditions, width)
        self.act = nn.PReLU(width)
        self.res = nn.Conv1d(n_in, width, 1, groups=1 if width % n_in else n_in, bias=False)
        nn.init.ones_(self.film.bias)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        return self.act(self.conv(x) * self.film(conditions).unsqueeze(-1)) + self.res(x[..., self.reach :])


class TCN(nn.Module):
    """Temporal convolutional network over signals (B, n_in, T), conditioned on controls (B, n_conditions).

    Without biases and shifts of the signal, the output scales with the input, as in the smoothing that it replaces.

    Source: the network of BE-AFX, arXiv 2310.11781, which has the same conditioning, but with shifts, and runs at the
    audio rate.
    """

    def __init__(self, n_in: int, n_conditions: int, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (n_conditions, 16, 32, 32)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.conditions = nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.PReLU())))
        blocks = [Block(width if i else n_in, width, kernel, d, sizes[-1]) for i, d in enumerate(dilations)]
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Conv1d(width, 1, 1, bias=False)
        self.reach = sum(block.reach for block in blocks)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """Output (B, 1, T) for signals (B, n_in, T) and controls (B, n_conditions)."""
        conditions = self.conditions(q)
        h = F.pad(x, (self.reach, 0))
        for block in self.blocks:
            h = block(h, conditions)
        return self.output(h)


class ProxyCompressor(Compressor):
    """The compressor with a network that predicts the smoothing of the gain reduction by attack and release.

    From features of frames of 32 samples the network predicts the smoothed reduction in dB at the end of each frame.
    In between, the compressor's recursion is evaluated once, along the straight line from end to end. No operation is
    sequential over samples, and gradients reach the audio and every parameter. Like the recursion, the smoothing is
    homogeneous: threshold, ratio and knee act through the static curve only, and the network is conditioned on the two
    time constants.

    The gain at a sample depends on the audio up to the end of its frame, at most 31 samples later.

    Args:
        sr: 44100 or 48000 Hz.
        hybrid: whether to use the network in training only, and the compressor itself in evaluation.
        weights: file of `scripts/train_proxy.py`; None for an untrained network.

    Source: the network as in BE-AFX, arXiv 2310.11781.
    """

    def __init__(
        self, sr: int, *, hybrid: bool = False, weights: str | Path | None = WEIGHTS, **overrides: dict
    ) -> None:
        super().__init__(sr, **overrides)
        if sr not in RATES:
            raise UsageError(f"the proxy needs a sample rate of {' or '.join(map(str, RATES))} Hz, not {sr}: resample")
        self.hybrid = hybrid
        # Mean, peak and excesses; then, of mean and peak each, one held and three averages, and two per power.
        n_in = 2 + len(QUARTERS) + 2 * (4 + 2 * len(POWERS))
        # It reaches back 340 frames, 0.25 s at 44100 Hz; averages among the features represent what is earlier.
        self.network = TCN(n_in, 2, width=16, kernel=5, dilations=(1, 4, 16, 64))
        if weights is not None:
            load_weights(self.network, weights)
        # Frozen: it stands for a fixed algorithm. Gradients still pass through it, to the audio and the controls.
        self.network.requires_grad_(False)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        if self.hybrid and not self.training:
            return super().forward(x, **values)
        reduction = self.reduction(x, values["threshold"], values["ratio"], values["knee"])
        smooth = self.smooth(reduction, values["attack"], values["release"])
        return x * db_to_gain(values["makeup"].reshape(-1, 1, 1) - smooth)

    def smooth(self, reduction: Tensor, attack: Tensor, release: Tensor) -> Tensor:
        """The static gain reduction (B, 1, T) in dB smoothed by attack and release in ms, (B,) each."""
        attack, release = (ms.reshape(-1) for ms in (attack, release))
        length = reduction.shape[-1]
        frames = F.pad(reduction, (0, -length % FRAME), "replicate").unflatten(-1, (-1, FRAME))
        # Controls by the ranges of the class, for which the network was trained: an instance may have narrower ones.
        declared = {p.name: p.mapping for p in Compressor.params if isinstance(p.mapping, Bounded)}
        times = {"attack": attack, "release": release}
        q = torch.stack([declared[n].to_unit(ms * (self.sr / TRAINED_SR)) for n, ms in times.items()], -1)
        taus = (ms.double() * (self.sr / (1000 * FRAME)) for ms in (attack, release))
        dtype = self.network.output.weight.dtype
        ends = self.network(frame_features(frames, *taus).to(dtype), q.to(dtype)).to(reduction.dtype)
        coefs = ((1 - tau_to_coef(ms.double(), self.sr)).to(reduction.dtype) for ms in (attack, release))
        return draw_samples(ends, frames, *coefs)[..., :length]


def frame_features(frames: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """Input features (B, 21, K) of the network: gain reduction (B, 1, K, N) in frames, time constants (B,) in frames.

    Mean, peak, and the mean excess over ¼, ½ and ¾ of the peak. Of mean and peak, each:

    - one-pole averages with attack, release and their geometric mean;
    - the averages with attack, held and released where they exceed those with release, see `hold`: the exact output of
      the detector where one rise is followed by one fall;
    - running power means, which lie between mean and peak, as does a detector that rises faster than it falls.
    """
    mean, peak = frames.mean(-1), frames.amax(-1)
    over = [(frames - level * peak.unsqueeze(-1)).relu().mean(-1) for level in QUARTERS]
    # In float64: errors of an FFT are relative to the largest value, far above the small ones in 4th powers.
    pair = torch.cat([mean, peak], 1).double()
    ends = torch.stack([attack, release], -1)
    averages = one_poles(pair, torch.stack([attack, (attack * release).sqrt(), release], -1))
    # τ / p, because the p-th power of a decay e^(-t/τ) is e^(-p·t/τ).
    powers = [one_poles(pair**p, ends / p).clamp(min=FAINT_DB**p) ** (1 / p) for p in POWERS]
    held = hold(averages[:, :, 0], averages[:, :, 2], attack, release)
    return torch.cat([mean, peak, *over, held, *(v.flatten(1, 2) for v in (averages, *powers))], 1)


def one_poles(x: Tensor, taus: Tensor) -> Tensor:
    """Exponential averages (B, C, J, K) of x (B, C, K) with time constants (B, J) in steps, all steps at once."""
    steps = x.shape[-1]
    n = 1 << (2 * steps - 1).bit_length()
    rates = 1 / taus.unsqueeze(-1)
    # 1 - e^(-rate) by expm1, as it cancels for slow averages. n >= 2·steps - 1: nothing wraps around.
    response = -torch.expm1(-rates) * torch.exp(-rates * torch.arange(steps, device=x.device))
    spectrum = torch.fft.rfft(x, n).unsqueeze(2) * torch.fft.rfft(response, n).unsqueeze(1)
    return torch.fft.irfft(spectrum, n)[..., :steps]


def hold(risen: Tensor, fallen: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The averages with release plus the decaying maximum of the lead of those with attack, (B, C, K) each.

    a_R[k] + max_j (a_A[j] - a_R[j])·e^(-(k - j)/τ_R), j <= k. Where the attack is slower than the release, the lead has
    the opposite sign.
    """
    sign = torch.where(attack < release, 1.0, -1.0).reshape(-1, 1, 1)
    # In logarithms, the maximum of exponential decays is a cumulative maximum of straight lines.
    elapsed = torch.arange(risen.shape[-1], device=risen.device) / release.reshape(-1, 1, 1)
    lead = (sign * (risen - fallen)).clamp(min=FAINT_DB * 1e-3).log()
    return fallen + sign * torch.exp((lead + elapsed).cummax(-1)[0] - elapsed)


def draw_samples(ends: Tensor, frames: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The smoothed reduction (B, 1, K·N) from its values at the ends of frames, (B, 1, K), and coefficients (B,).

    A straight line l between two ends, plus the deviation Σ c·(x[n] - l[n-1]): the increments of the recursion
    y[n] = y[n-1] + c·(x[n] - y[n-1]) with l for y on the right. Its linear trend is removed, so that the ends are met.
    """
    starts = F.pad(ends, (1, 0))[..., :-1].unsqueeze(-1)
    slope = (ends.unsqueeze(-1) - starts) / FRAME
    step = torch.arange(1, FRAME + 1, device=ends.device, dtype=ends.dtype)
    excess = frames - (starts + slope * (step - 1))
    attack, release = (coef.reshape(-1, 1, 1, 1) for coef in (attack, release))
    # A rising reduction is a falling gain, which the attack smooths.
    path = torch.where(excess > 0, attack * excess, release * excess).cumsum(-1)
    return (starts + slope * step + path - path[..., -1:] * (step / FRAME)).flatten(2)


def load_weights(network: TCN, path: str | Path) -> None:
    """Loads the weights in a file; UsageError naming the file where it is missing, damaged or of another network."""
    try:
        weights = _read(Path(path).expanduser())
        # torch casts complex numbers with a warning; and not finite ones load without an error.
        if not all(weight.is_floating_point() and weight.isfinite().all() for weight in weights.values()):
            raise ValueError("not finite real numbers")
        network.load_state_dict(weights)
    except UsageError as error:
        raise UsageError(f"{error}; train weights by scripts/train_proxy.py") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path}: no weights of this proxy ({reason}); train them by scripts/train_proxy.py") from None


@cache
def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file; cached, because every chain constructs its own proxy."""
    return read_tensors(path)
