"""The free raw parameters of a chain's presets as vectors, and audio of such vectors."""

import copy

import torch
from torch import Tensor

from reknob.afx.chain import Serial
from reknob.afx.effect import Effect, HasResponse, Knobs, Values, flatten, nest
from reknob.data.audio import loudness, loudness_gain
from reknob.formats.presets import Preset, from_vectors, to_vectors
from reknob.formats.published import feature_mask

LUFS = -18.0  # that published presets were fitted at


class PresetSpace:
    """Rows (G, F) of free raw parameters of one chain: from presets, to values and to audio.

    Args:
        chain: the effects; left as it is.
    """

    def __init__(self, chain: Effect) -> None:
        self.chain, self.mask = chain, feature_mask(chain)
        # The column of every element, through the translation of the release's order, which has no gradient.
        numbers = from_vectors(torch.arange(len(self.mask))[None].double(), chain)[0]
        self._columns = {name: index.round().long() for name, index in numbers.items()}
        self._params = dict(chain.walk())
        self._defaults = flatten(Knobs(chain).requires_grad_(False)())

    def rows(self, presets: list[Preset]) -> Tensor:
        """Presets as rows, (N, F)."""
        return to_vectors(presets, self.chain)[:, self.mask]

    def raws(self, rows: Tensor) -> dict[str, Tensor]:
        """Raw parameters (G, *shape) by name of rows (G, F)."""
        vectors = rows.new_zeros(len(rows), len(self.mask))
        vectors[:, self.mask] = rows
        return {name: vectors[:, index] for name, index in self._columns.items()}

    def values(self, rows: Tensor) -> Values:
        """Physical values (G, *shape) of rows (G, F)."""
        found = {name: self._params[name].mapping.value(raw) for name, raw in self.raws(rows).items()}
        kept = {name: value.expand(len(rows), *value.shape) for name, value in self._defaults.items()}
        return nest(kept | found)


class Renderer:
    """Renders one dry recording with rows of a space, several at once.

    Args:
        space: of the rows.
        dry: (1, T), at the chain's sample rate; it is brought to -18 LUFS.
    """

    def __init__(self, space: PresetSpace, dry: Tensor) -> None:
        self.space, self.sr = space, space.chain.sr
        self.dry = (dry * loudness_gain(loudness(dry, self.sr), LUFS))[None]
        self._chain = _shortened(space.chain, dry.shape[-1])

    def __call__(self, rows: Tensor) -> Tensor:
        """The output (G, 2, T) of rows (G, F), with gradients where the rows have them."""
        self._chain.train(rows.requires_grad)
        dry = self.dry.expand(len(rows), -1, -1)
        y = self._chain(dry, **self._chain.for_items(self.space.values(rows), len(rows)))
        return y if y.shape[1] == 2 else y.expand(-1, 2, -1)

    def at_level(self, rows: Tensor) -> Tensor:
        """The output at -18 LUFS, without gradients; where it is silent or not finite, silence."""
        with torch.no_grad():
            return torch.stack([at_level(y, self.sr) for y in self(rows)])


def at_level(y: Tensor, sr: int, lufs: float = LUFS) -> Tensor:
    """Audio (C, T) scaled to a loudness in LUFS; silence where it is silent or not finite."""
    level = loudness(y, sr) if y.isfinite().all() else -torch.inf
    return y * loudness_gain(level, lufs) if level > -torch.inf else torch.zeros_like(y)


def _shortened(chain: Effect, samples: int) -> Effect:
    """A copy of the chain whose responses, of reverbs and delays in series, have no more than `samples`."""
    short = copy.deepcopy(chain)
    if isinstance(chain, Serial):
        for name, part in chain.parts():
            if isinstance(part, HasResponse):
                setattr(short, name, part.shortened(samples))
    return short
