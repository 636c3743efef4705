"""Training and scoring of the compressor's neural proxy against the compressor itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reknob.afx.dynamics import Compressor
from reknob.afx.functional.level import centre_and_peak
from reknob.afx.proxy import TRAINED_SR, ProxyCompressor
from reknob.data.audio import read_audio, resample
from reknob.data.music import generate_music
from reknob.data.recordings import find_recordings
from reknob.estimation.trainer import Task, Trainer, open_fabric, state_path
from reknob.losses.metrics import FFT_SIZES, BlindMetrics
from reknob.losses.stft import MultiResolutionSTFT
from reknob.runtime.bars import progress_bar
from reknob.runtime.files import read_tensors, write_tensors
from reknob.runtime.seeds import stream

SECONDS = 10.0  # of a piece
HELD_OUT = 1_000_000  # first seed of the validation's generated pieces; the training's are below 1000 × 900 + 900
CONTROLS_SEED = 50  # not the training's seed, so that the scores of two trainings compare
#: Columns of `score`.
FIGURES = ("MAE", "ESR", "MRSTFT", "Mel")


@dataclass(frozen=True, kw_only=True)
class ProxySettings:
    """Settings of a training of the proxy; names and defaults are those of the options of train_proxy.py.

    Args:
        steps: of the optimiser.
        batch_size, seconds: number and length of the excerpts of a step.
        lr: highest learning rate.
        seed: of pieces, parameters and weights.
        data_dir: folder of recordings; None for generated music.
        pieces, valid_pieces: number of pieces of 10 s in the training and the validation.
        validate_every: steps between two validations.
    """

    steps: int = 1200
    batch_size: int = 8
    seconds: float = 3.0
    lr: float = 4e-3
    seed: int = 0
    data_dir: Path | None = None
    pieces: int = 120
    valid_pieces: int = 50
    validate_every: int = 250


def load_pieces(settings: ProxySettings, split: str) -> Tensor:
    """Pieces of a split ("train" or "valid"), (N, 1, T), centred and at a peak of 1."""
    count = settings.pieces if split == "train" else settings.valid_pieces
    if settings.data_dir is None:
        first = settings.seed * count + HELD_OUT * (split == "valid")
        pieces = (torch.from_numpy(generate_music(first + i, SECONDS, TRAINED_SR)) for i in range(count))
    else:
        recordings = find_recordings("folder", settings.data_dir, split, SECONDS).recordings
        chosen = [recordings[i % len(recordings)] for i in range(count)]
        positions = torch.rand(count, generator=stream(settings.seed, "excerpts", split)).tolist()
        pieces = (
            recording.read(position * (recording.duration - SECONDS), SECONDS, TRAINED_SR)[None]
            for recording, position in zip(chosen, positions, strict=True)
        )
    return centre_and_peak(torch.stack(list(progress_bar(pieces, f"{split}: music", count, unit="piece"))))


def read_recording(path: str | Path) -> Tensor:
    """A recording of any length as the compressor's input, (1, 1, T): mono, centred, at a peak of 1."""
    x, sr = read_audio(path)
    return centre_and_peak(resample(x.mean(0, keepdim=True), sr, TRAINED_SR)[None])


def random_controls(count: int) -> Tensor:
    """Controls q (count, 6), uniform in [0, 1]; always the same ones."""
    return torch.rand(count, len(Compressor.params), generator=torch.Generator().manual_seed(CONTROLS_SEED))


def train_proxy(
    settings: ProxySettings, music: Tensor, held_out: Tensor, out: Path, *, resume: bool = False
) -> tuple[ProxyCompressor, Trainer]:
    """The proxy with the weights that were best on held-out pieces, which are in the file `out`, and the trainer.

    `music` (N, 1, T) and `held_out` (M, 1, T) are on the device to train on. Errors are those of `Trainer.train`.
    """
    torch.manual_seed(settings.seed)
    proxy = ProxyCompressor(TRAINED_SR, weights=None).to(music.device)
    task = ProxyTask(proxy, settings, music, held_out, out)
    trainer = Trainer(task, open_fabric(music.device), state_path(out), settings)
    trainer.train(resume=resume)
    return proxy, trainer


class ProxyLoss(nn.Module):
    """L1 + multi-resolution STFT between the outputs of the proxy and of the compressor."""

    def __init__(self, proxy: ProxyCompressor) -> None:
        super().__init__()
        self.proxy, self.exact = proxy, Compressor(TRAINED_SR)
        self.stft = MultiResolutionSTFT(TRAINED_SR, FFT_SIZES, [n // 2 for n in FFT_SIZES], FFT_SIZES)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """The mean loss of audio (B, 1, T) at controls q (B, 6)."""
        # The network does not compute the make-up gain, which would weight the excerpts unevenly.
        values = self.exact.from_unit(q) | {"makeup": torch.zeros(len(q), device=x.device)}
        target, pred = self.exact(x, **values), self.proxy(x, **values)
        return (pred - target).abs().mean() + self.stft(pred, target)


class ProxyTask(Task):
    """Adam on the network of a proxy, whose learning rate rises and falls once; validated every `validate_every`."""

    generator: torch.Generator
    most = 1.0

    def __init__(
        self, proxy: ProxyCompressor, settings: ProxySettings, music: Tensor, held_out: Tensor, out: Path
    ) -> None:
        self.proxy, self.settings, self.music, self.held_out, self.out = proxy, settings, music, held_out, out
        # The proxy freezes its network, for estimators that are trained through it; here it is what is trained.
        self.model, self.network = ProxyLoss(proxy), proxy.network.requires_grad_(True)
        self.steps, self.epoch_steps = settings.steps, settings.validate_every
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        # One more: the schedule is stepped after the optimiser's last step as well, which would be past its end.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.lr, total_steps=settings.steps + 1, pct_start=0.05
        )
        # On the CPU, so that the batches are the same on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random excerpts (B, 1, T) at a peak of 1, and uniform controls q (B, 6)."""
        length, size = round(self.settings.seconds * TRAINED_SR), (self.settings.batch_size,)
        for _ in range(self.left(epoch, first)):
            rows = torch.randint(len(self.music), size, generator=self.generator).tolist()
            starts = torch.randint(self.music.shape[-1] - length + 1, size, generator=self.generator).tolist()
            spans = zip(rows, starts, strict=True)
            x = torch.stack([self.music[row, :, start : start + length] for row, start in spans])
            q = torch.rand(*size, len(Compressor.params), generator=self.generator)
            # Again, as an excerpt need not contain its piece's peak.
            yield centre_and_peak(x), q.to(x.device)

    def validate(self, epoch: int) -> Tensor:
        """The terms that are trained on; ESR and Mel are reported only."""
        mae, _, mrstft, _ = score_proxy(self.proxy, self.held_out, random_controls(len(self.held_out))).mean(0)
        return mae + mrstft

    def keep(self, valid: float) -> None:
        """Writes the network's weights."""
        write_tensors(self.out, {name: value.cpu() for name, value in self.network.state_dict().items()})

    def kept(self) -> dict[str, Tensor]:
        """The weights in the file."""
        return read_tensors(self.out)


@torch.no_grad()
def score_proxy(proxy: ProxyCompressor, x: Tensor, q: Tensor) -> Tensor:
    """MAE, ESR, MRSTFT and Mel, (N, 4), of the proxy against the compressor on audio (N, 1, T) at controls q (N, 6)."""
    proxy.eval()
    exact, metrics = Compressor(TRAINED_SR), BlindMetrics(TRAINED_SR)
    device = next(proxy.parameters()).device
    rows = []
    # One by one, so that memory does not grow with the number of pieces.
    for audio, controls in zip(x.split(1), q.split(1), strict=True):
        audio, values = audio.to(device), exact.from_unit(controls.to(device))
        target, pred = exact(audio, **values), proxy(audio, **values)
        error = pred - target
        scores = metrics(pred, target)
        esr = error.square().sum() / target.square().sum().clamp(min=1e-12)
        rows.append([error.abs().mean(), esr, scores["mrstft"].mean(), scores["mel"].mean()])
    return torch.tensor(rows)


def score_recordings(proxy: ProxyCompressor, recordings: list[Tensor], count: int) -> Tensor:
    """The figures, (len(recordings) · count, 4), of every recording (1, 1, T) at each of `count` random controls."""
    q = random_controls(count)
    return torch.cat([score_proxy(proxy, x.expand(count, -1, -1), q) for x in recordings])
