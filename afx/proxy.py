"""The neural proxy of the compressor: a temporal convolutional network in the place of its attack and release."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reknob.runtime.errors import UsageError

from .dynamics import Compressor
from .effect import Values
from .functional.level import tau_to_coef
from .functional.units import db_to_gain

#: The weights that come with the project; `proxy.md` beside them says how they were made and how good they are.
WEIGHTS = Path(__file__).parent / "weights" / "proxy.pt"
#: Sample rate in Hz at which the network is trained; time constants at another one are converted in samples.
TRAINED_SR = 44100
RATES = (44100, 48000)
#: Samples per step of the network.
FRAME = 32
QUARTERS = (0.25, 0.5, 0.75)
POWERS = (2, 4)
#: Reduction in dB below which nothing is told apart.
FAINT_DB = 1e-2


class Block(nn.Module):
    """Causal dilated convolution, scaled by the conditions (FiLM without shifts), PReLU, and a residual path.

    Only the valid outputs come out: the time axis gets shorter by `reach`.
    """

    def __init__(self, n_in: int, width: int, kernel: int, dilation: int, n_conditions: int):
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
    """Temporal convolutional network over signals (B, n_in, T), conditioned on settings (B, n_conditions).

    Nothing in it shifts the signal, so that the output scales with the input, as what it stands for does.

    Source: the network of BE-AFX, arXiv 2310.11781, which is conditioned alike, works on every sample and shifts.
    """

    def __init__(self, n_in: int, n_conditions: int, width: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        sizes = (n_conditions, 16, 32, 32)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.conditions = nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.PReLU())))
        self.blocks = nn.ModuleList(
            Block(width if i else n_in, width, kernel, dilation, sizes[-1]) for i, dilation in enumerate(dilations)
        )
        self.output = nn.Conv1d(width, 1, 1, bias=False)
        self.reach = sum(block.reach for block in self.blocks)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """Output (B, 1, T) for signals (B, n_in, T) and settings (B, n_conditions)."""
        conditions = self.conditions(q)
        h = F.pad(x, (self.reach, 0))
        for block in self.blocks:
            h = block(h, conditions)
        return self.output(h)


class ProxyCompressor(Compressor):
    """The compressor with a network that predicts what its attack and release make of the static curve's reduction.

    The network sees statistics of frames of 32 samples and gives the smoothed reduction in dB at the end of each; one
    pass of the compressor's recursion, frozen along the lines between these ends, draws the samples. Nothing runs
    sample by sample, and gradients reach the audio and every setting. Like the recursion, all of it is homogeneous:
    threshold, ratio and knee act through the static curve alone, and the network is conditioned on the two times.

    The gain at a sample depends on the audio up to the end of its frame, at most 31 samples later.

    Args:
        sr: 44100 or 48000 Hz.
        hybrid: the network in training only; the compressor itself in evaluation.
        weights: file of `scripts/train_proxy.py`; None for a network that is still to be trained.

    Source: the network after BE-AFX, arXiv 2310.11781.
    """

    def __init__(self, sr: int, *, hybrid: bool = False, weights: str | Path | None = WEIGHTS, **overrides: dict):
        super().__init__(sr, **overrides)
        if sr not in RATES:
            raise UsageError(f"the proxy serves {' and '.join(map(str, RATES))} Hz, not {sr}: resample")
        self.hybrid = hybrid
        n_in = 2 + len(QUARTERS) + 2 * (4 + 2 * len(POWERS))
        self.network = TCN(n_in, 2, width=16, kernel=5, dilations=(1, 4, 16, 64))
        if weights is not None:
            load_weights(self.network, weights)
        self.network.requires_grad_(False)

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        if self.hybrid and not self.training:
            return super().forward(x, **values)
        reduction = self.reduction(x, values["threshold"], values["ratio"], values["knee"])
        smooth = self.smooth(reduction, values["attack"], values["release"])
        return x * db_to_gain(values["makeup"].reshape(-1, 1, 1) - smooth)

    def smooth(self, reduction: Tensor, attack: Tensor, release: Tensor) -> Tensor:
        """The static curve's reduction (B, 1, T) in dB after attack and release in ms."""
        attack, release = (ms.reshape(-1) for ms in (attack, release))
        length = reduction.shape[-1]
        frames = F.pad(reduction, (0, -length % FRAME), "replicate").unflatten(-1, (-1, FRAME))
        # By the declaration of the class: an instance may have narrower ranges than the network was trained for.
        declared = {p.name: p.mapping for p in Compressor.params}
        times = {"attack": attack, "release": release}
        q = torch.stack([declared[n].to_unit(ms * (self.sr / TRAINED_SR)) for n, ms in times.items()], -1)
        taus = (ms.double() * (self.sr / (1000 * FRAME)) for ms in (attack, release))
        dtype = self.network.output.weight.dtype
        ends = self.network(frame_features(frames, *taus).to(dtype), q.to(dtype)).to(reduction.dtype)
        coefs = ((1 - tau_to_coef(ms.double(), self.sr)).to(reduction.dtype) for ms in (attack, release))
        return draw_samples(ends, frames, *coefs)[..., :length]


def frame_features(frames: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """What the network sees, (B, 21, K), of the reduction in frames, (B, 1, K, N), and time constants in frames, (B,).

    Mean, peak, and the mean of what exceeds ¼, ½ and ¾ of the peak. Of mean and peak, each:

    - one-pole averages a with attack, release and their geometric mean;
    - the attack's average where it is the larger one, held from then on and released: exactly what the detector does
      where a rise is followed by a fall, a_R[k] + max_j (a_A[j] - a_R[j]) e^(-(k - j)/τ_R), j <= k;
    - power means, which lie between average and peak as a detector does that rises faster than it falls.
    """
    mean, peak = frames.mean(-1), frames.amax(-1)
    over = [(frames - level * peak.unsqueeze(-1)).relu().mean(-1) for level in QUARTERS]
    pair = torch.cat([mean, peak], 1).double()
    ends = torch.stack([attack, release], -1)
    averages = one_poles(pair, torch.stack([attack, (attack * release).sqrt(), release], -1))
    powers = [one_poles(pair**p, ends / p).clamp(min=FAINT_DB**p) ** (1 / p) for p in POWERS]
    held = hold(averages[:, :, 0], averages[:, :, 2], attack, release)
    return torch.cat([mean, peak, *over, held, *(v.flatten(1, 2) for v in (averages, *powers))], 1)


def one_poles(x: Tensor, taus: Tensor) -> Tensor:
    """Exponential averages (B, C, J, K) of x (B, C, K) with time constants (B, J) in steps, all steps at once."""
    steps = x.shape[-1]
    n = 1 << (2 * steps - 1).bit_length()
    rates = 1 / taus.unsqueeze(-1)
    response = -torch.expm1(-rates) * torch.exp(-rates * torch.arange(steps, device=x.device))
    spectrum = torch.fft.rfft(x, n).unsqueeze(2) * torch.fft.rfft(response, n).unsqueeze(1)
    return torch.fft.irfft(spectrum, n)[..., :steps]


def hold(risen: Tensor, fallen: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The attack's averages (B, C, K) while they exceed the release's, then what decays from there; see above.

    Where the attack is the slower of the two, the same with the sign turned.
    """
    sign = torch.where(attack < release, 1.0, -1.0).reshape(-1, 1, 1)
    elapsed = torch.arange(risen.shape[-1], device=risen.device) / release.reshape(-1, 1, 1)
    lead = (sign * (risen - fallen)).clamp(min=FAINT_DB * 1e-3).log()
    return fallen + sign * torch.exp((lead + elapsed).cummax(-1)[0] - elapsed)


def draw_samples(ends: Tensor, frames: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The smoothed reduction (B, 1, K·N) from its values at the ends of frames, (B, 1, K), and coefficients (B,).

    A straight line between the ends, plus the path that y[n] = y[n-1] + c·(x[n] - y[n-1]) takes off it when y on the
    right is the line.
    """
    starts = F.pad(ends, (1, 0))[..., :-1].unsqueeze(-1)
    slope = (ends.unsqueeze(-1) - starts) / FRAME
    step = torch.arange(1, FRAME + 1, device=ends.device, dtype=ends.dtype)
    excess = frames - (starts + slope * (step - 1))
    attack, release = (coef.reshape(-1, 1, 1, 1) for coef in (attack, release))
    path = torch.where(excess > 0, attack * excess, release * excess).cumsum(-1)
    return (starts + slope * step + path - path[..., -1:] * (step / FRAME)).flatten(2)


def load_weights(network: TCN, path: str | Path) -> None:
    """Gives the network the weights of a file; UsageError naming the file where it is missing, damaged or another's."""
    try:
        network.load_state_dict(_read(Path(path).expanduser()))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; scripts/train_proxy.py makes one") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path}: no weights of this proxy ({reason}); scripts/train_proxy.py makes them") from None


@cache
def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; read once, as every chain has a proxy of its own."""
    return torch.load(path, map_location="cpu", weights_only=True)
