"""What lossy coding does to sound, without a codec: noise that follows the spectrum, and nothing above a frequency."""

import torch
from torch import Tensor

FFT, HOP = 2048, 1024
SNR = (14.0, 40.0)  # dB: mp3, Vorbis and Opus at 30 to 230 kbit/s had 17 to 34 on rock music
CUT = (12000.0, 20000.0)  # Hz


def coded(x: Tensor, sr: int, share: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """x (B, 1, N) at `sr` Hz, about a `share` of its items as decoded from a file of random quality; about
    half of these are cut off above some frequency.

    In an mp3 a clipped waveform has lost its flat tops: an estimator for files has to hear such as well.
    """
    chosen = torch.nonzero(torch.rand(len(x), generator=generator) < share)[:, 0]
    if not len(chosen):
        return x
    return x.index_copy(0, chosen.to(x.device), _decoded(x[chosen], sr, generator))


def _decoded(x: Tensor, sr: int, generator: torch.Generator | None) -> Tensor:
    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(len(x), 1, 1, generator=generator)).to(x)

    window = torch.hann_window(FFT, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(x[:, 0], FFT, HOP, window=window, return_complex=True)
    noise = torch.randn(2, *spectrum.shape, generator=generator).to(x)
    freq = torch.linspace(0, sr / 2, spectrum.shape[1], dtype=x.dtype, device=x.device)[:, None]
    passed = (freq < draw(*CUT)) | (draw(0, 1) < 0.5)
    spectrum = spectrum * (1 + 10 ** (-draw(*SNR) / 20) * torch.complex(*noise)) * passed
    return torch.istft(spectrum, FFT, HOP, window=window, length=x.shape[-1])[:, None]
