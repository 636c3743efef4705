"""scipy's FFT of real numpy arrays, annotated with the types that it returns.

scipy transforms float32 in float32 and faster than numpy; its dispatcher hides the types of arguments and results.
"""

import numpy as np
from scipy import fft


def next_fast_len(size: int) -> int:
    """The smallest length of at least `size` that a real FFT is fast for."""
    return fft.next_fast_len(size, real=True)  # pyright: ignore[reportReturnType]  # annotated as None


def rfft(x: np.ndarray, size: int | None = None, *, workers: int | None = None) -> np.ndarray:
    """Spectrum `(.., size // 2 + 1)` of `x` `(.., T)`, which is cut or zero-padded to `size` samples."""
    return fft.rfft(x, size, workers=workers)  # pyright: ignore[reportReturnType]  # annotated as tuple[Dispatchable]


def irfft(spectrum: np.ndarray, size: int | None = None, *, workers: int | None = None) -> np.ndarray:
    """Samples `(.., size)` of a spectrum `(.., size // 2 + 1)`."""
    return fft.irfft(spectrum, size, workers=workers)  # pyright: ignore[reportReturnType]  # as rfft


def rfftfreq(size: int, spacing: float) -> np.ndarray:
    """Frequencies in Hz of the bins of a real FFT of `size` samples that are `spacing` s apart."""
    return fft.rfftfreq(size, spacing)
