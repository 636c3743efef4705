"""Magnitude responses of the equalisers and filters of a chain, by which their settings are compared."""

import torch
from torch import Tensor

from reknob.afx.chain import Normalised, cascade_coefs, is_biquad
from reknob.afx.effect import Effect, part_values
from reknob.afx.functional.biquad import response


class Equaliser:
    """An equaliser at `sr` Hz: the part `name` of a chain of effects. Its biquads are `bands`, or it is one itself."""

    def __init__(self, chain: Normalised, sr: int, name: str, bands: list[tuple[str, Effect]]) -> None:
        self.chain, self.sr, self.name, self.bands = chain, sr, name, bands
        # Which of the controls are the equaliser's.
        self.mask = torch.tensor([control.startswith(f"{name}.") for control in chain.controls()])

    def gains(self, q: Tensor, freqs: Tensor) -> Tensor:
        """Gains (B, F) in nepers at frequencies (F,) in Hz, for controls q (B, P) of the chain."""
        values = self.chain.from_unit(q)
        inner = values if self.bands[0][0] == self.name else part_values(values, self.name)
        # In float64: in float32 low frequencies at a high rate are off by up to 2 dB.
        return response(cascade_coefs(self.bands, inner), freqs.double(), self.sr).abs().log().to(q)


def equalisers(chain: Normalised, sr: int) -> list[Equaliser]:
    """The equalisers of a chain: its effects that are biquads or consist of them."""
    parts = [(part[0], [part] if is_biquad(part) else list(part[1].parts())) for part in chain.parts()]
    return [Equaliser(chain, sr, name, bands) for name, bands in parts if bands and all(map(is_biquad, bands))]


def other_controls(chain: Normalised, found: list[Equaliser]) -> Tensor:
    """Which controls (P,) of a chain are not those of its equalisers."""
    others = torch.ones(len(chain.controls()), dtype=torch.bool)
    for equaliser in found:
        others &= ~equaliser.mask
    return others
