"""One transfer: a raw recording, a reference, the presets of a set, and the method that connects them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.analysis.prior import fit_prior
from reknob.data.audio import read_audio, resample
from reknob.formats.as_document import row_document
from reknob.formats.preset_document import PresetDocument
from reknob.formats.presets import TRAIN_INDEX, Preset, load_presets, read_row_numbers, read_rows
from reknob.runtime.errors import UsageError
from reknob.transfer.embeddings import EMBEDDINGS
from reknob.transfer.levels import SHORTEST_S
from reknob.transfer.published import ALPHA, RATE, STEPS, optimise, style_distance
from reknob.transfer.search import search
from reknob.transfer.space import PresetSpace, Renderer, at_level

METHODS = ("search", "published", "mean", "nearest")
CHUNK_S, SEARCH_S = 11.0, 4.0
HOP_S = 0.1
LICENCE = "Numbers estimated from recordings and a preset set, which are no part of this file and keep their own terms."


@dataclass(frozen=True)
class TransferOptions:
    """Options of a transfer.

    Args:
        method: `search` (the project's), `published` (arXiv 2505.11315), or a baseline: `mean` of the prior, `nearest`
            preset in embedding.
        embedding: of `published` and `nearest`, a key of `transfer.embeddings.EMBEDDINGS`.
        alpha, steps: of `published`: weight of the prior, and steps of Adam.
        seconds: length of the passages that are compared.
    """

    method: str = METHODS[0]
    embedding: str = "mfcc"
    alpha: float = ALPHA
    steps: int = STEPS
    seconds: float = CHUNK_S

    def __post_init__(self) -> None:
        """UsageError for options that do not exist."""
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if self.embedding not in EMBEDDINGS:
            raise UsageError(f"unknown embedding {self.embedding!r}; known: {', '.join(EMBEDDINGS)}")


class Transfer:
    """Transfers to references with the presets of one set.

    Args:
        config: of the chain.
        chain: the effects.
        presets: of the set; those that are not finite are left out. UsageError for fewer than two others.
        options: of every transfer.
    """

    def __init__(self, config: dict, chain: Effect, presets: Sequence[Preset], options: TransferOptions) -> None:
        self.config, self.chain, self.options = config, chain, options
        self.space = PresetSpace(chain)
        rows = self.space.rows(list(presets)) if presets else torch.zeros(0, 0)
        self.rows = rows[rows.isfinite().all(1)]
        if len(self.rows) < 2:
            raise UsageError(f"{len(self.rows)} finite presets: a transfer needs a set of two or more")
        self.prior = fit_prior(self.rows, "gaussian")

    def __call__(
        self,
        raw: Tensor,
        reference: Tensor,
        on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """The row (F,) that makes a raw recording (C, T) sound like a reference (C', T'), both at the chain's rate.

        `on_progress` gets what is done, how many of it are done, and of how many. UsageError for recordings that are
        silent or shorter than 2.5 s.
        """
        options, sr = self.options, self.chain.sr
        raw = active_passage(raw.mean(0, keepdim=True), sr, options.seconds, "the raw recording")
        reference = reference if len(reference) == 2 else reference.mean(0, keepdim=True).expand(2, -1)
        reference = at_level(active_passage(reference, sr, options.seconds, "the reference"), sr)
        if options.method == "mean":
            return self.prior.mean.float()
        if options.method == "search":
            # Every preset is rendered: on a shorter passage, which is what takes the time.
            short = Renderer(self.space, active_passage(raw, sr, SEARCH_S))
            return search(short, reference, self.rows, lambda n: on_progress("preset", n, len(self.rows)), stopped)
        renderer = Renderer(self.space, raw)
        distance = style_distance(EMBEDDINGS[options.embedding], reference, sr)
        if options.method == "nearest":
            with torch.no_grad():
                found = [distance(renderer(row).nan_to_num(0.0, 0.0, 0.0)) for row in self.rows.split(1)]
            return self.rows[torch.cat(found).argmin()]

        def objective(rows: Tensor, y: Tensor) -> Tensor:
            return distance(y) - options.alpha * self.prior.log_density(rows).to(y.dtype)

        def on_step(step: int, loss: float) -> None:
            on_progress("step", step, options.steps)

        start = self.prior.mean.float()[None]
        best, _ = optimise(renderer, objective, start, steps=options.steps, rate=RATE, on_step=on_step, stopped=stopped)
        return best[0]

    def document(self, row: Tensor, raw: Path, reference: Path, sets: Sequence[Path]) -> PresetDocument:
        """A row (F,) as a preset document that names the recordings and the sets."""
        raws = {name: value[0] for name, value in self.space.raws(row[None].detach()).items()}
        preset = Preset(0, str(raw), str(reference), 0, raws)
        document = row_document(preset, self.config, self.chain)
        inputs = {"raw": {"file": raw.name}, "reference": {"file": reference.name}}
        prior = ", ".join(each.name for each in sets)
        provenance = {"method": f"style transfer, {self.options.method}", "prior": prior, "inputs": inputs}
        name = f"{raw.stem} like {reference.stem}"[:200]
        return replace(document, name=name, alignment={}, provenance=provenance, licence=LICENCE)


def load_candidates(folders: Sequence[Path], chain: Effect, exclude: str | None = None) -> list[Preset]:
    """The presets of sets of one chain, rows counted on from set to set; of a set with train_index.npy only its rows.

    `exclude` are rows to leave out, as `formats.presets.read_rows` reads them. UsageError for a set of another chain.
    """
    presets, left_out = [], set()
    for folder in folders:
        first, own, index = len(presets), load_presets(folder, chain), folder / TRAIN_INDEX
        presets += [replace(preset, row=first + preset.row) for preset in own]
        if index.exists():
            kept = {first + row for row in read_row_numbers(index, len(own))}
            left_out |= {preset.row for preset in presets[first:]} - kept
    left_out |= set(read_rows(exclude, presets)) if exclude else set()
    return [preset for preset in presets if preset.row not in left_out]


def read_recording(path: Path, sr: int) -> Tensor:
    """A recording (C, T) at `sr` Hz, of at most two channels; UsageError for what is no audio."""
    x, rate = read_audio(path)
    return resample(x if len(x) <= 2 else x.mean(0, keepdim=True), rate, sr)


def active_passage(x: Tensor, sr: int, seconds: float, what: str = "the recording") -> Tensor:
    """The passage (C, ≤ seconds·sr) of x (C, T) in which the most is sung: the highest mean level in dB.

    UsageError where x is silent or shorter than 2.5 s.
    """
    if x.shape[1] < SHORTEST_S * sr:
        raise UsageError(f"{what} has {x.shape[1] / sr:.1f} s: a transfer needs {SHORTEST_S:g} s or more")
    if not x.abs().max() > 1e-5:
        raise UsageError(f"{what} is silent: a transfer needs a voice")
    length, hop = round(seconds * sr), round(HOP_S * sr)
    if x.shape[1] <= length:
        return x
    # Of levels, not powers: one loud word must not outweigh pauses. Below -60 dB everything counts as a pause.
    power = x.square().mean(0).unfold(0, hop, hop).mean(1)
    level = (power / power.max()).clamp(min=1e-6).log10()
    start = int(level.unfold(0, max(length // hop, 1), 1).mean(1).argmax()) * hop
    return x[:, start : start + length]
