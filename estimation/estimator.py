"""The estimator: an encoder with its perceptron, the chain whose controls it predicts, and the file that holds both."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from reknob.afx.registry import parse_chain
from reknob.data.decoding import HIGHEST_RATE, LOWEST_RATE
from reknob.data.recordings import SILENT
from reknob.encoders import build_controller
from reknob.estimation.calibration import Calibration
from reknob.estimation.posterior import Posterior, Prior
from reknob.runtime.errors import UsageError
from reknob.runtime.files import SHIPPED, input_path, read_tensors, write_tensors

ESTIMATORS = SHIPPED / "checkpoints"  # those that reknob comes with

# Power of the channels' mean over that of the loudest channel below which they cancel; uncorrelated channels have 0.25.
CANCELLED = 0.01
STEADY = 0.45  # `temporal_flatness` above which a recording is noise
# Audio "dry" (B, 1, T) and its true controls "q" (B, P).
Batch = dict[str, Tensor]


class EstimatorSettings(TypedDict):
    """What an estimator is built from, as its file holds it."""

    sfx: str
    afx: str
    encoder: str
    sr: int


class Estimator(nn.Module):
    """Controls of an effect chain, estimated from processed audio alone.

    Args:
        sfx: chain key of the synthesis, which processes the training music.
        afx: chain key of the analysis, whose controls are estimated.
        encoder: key of the encoder.
        sr: sample rate in Hz.

    Raises UsageError for an unknown key.
    """

    def __init__(self, *, sfx: str, afx: str, encoder: str, sr: int = 44100) -> None:
        super().__init__()
        self.settings: EstimatorSettings = {"sfx": sfx, "afx": afx, "encoder": encoder, "sr": sr}
        self.synthesis = parse_chain(sfx, sr, "synthesis")
        self.analysis = parse_chain(afx, sr, "analysis")
        self.controller = build_controller(encoder, len(self.analysis.controls()), sr)
        self.calibration: Calibration | None = None

    @property
    def same_controls(self) -> bool:
        """Whether synthesis and analysis have the same controls, so that true and estimated ones can be compared."""
        return self.synthesis.controls() == self.analysis.controls()

    def forward(self, wet: Tensor) -> Tensor:
        """Controls q (B, P) in [0, 1] of processed audio (B, 1, T)."""
        return self.controller(wet)

    @cached_property
    def prior(self) -> Prior:
        """Draws of the controls, which synthesis and analysis are to have in common."""
        return Prior(self.synthesis, self.settings["sr"])

    @torch.no_grad()
    def posterior(self, features: Tensor) -> Posterior:
        """What a recording tells of its controls, by the features (W, F) of its windows; with a calibration.

        The estimates of the windows are averaged: windows of one recording are alike, so that more of them do not tell
        more.
        """
        assert self.calibration
        estimated = self.prior.of(self.controller.mlp(features)).mean(0)
        return self.prior.posterior(self.calibration.likelihood, estimated)

    @torch.no_grad()
    def estimate_windows(self, x: Tensor, seconds: float = 10.0) -> Tensor:
        """Controls (W, P) of each window of a recording (C, T); silent windows are left out.

        Windows last `seconds` s and overlap by half, the last two by up to three quarters; a shorter recording is one
        window. Raises UsageError where every window is silent, or the recording is too short for the encoder.
        """
        return self.controller.mlp(self.window_features(x, seconds))

    @torch.no_grad()
    def window_features(self, x: Tensor, seconds: float = 10.0) -> Tensor:
        """The encoder's features (W, F) of the windows of `estimate_windows`, with its errors."""
        x, size = to_mono(x)[0], round(seconds * self.settings["sr"])
        last = max(len(x) - size, 0)
        starts = list(range(0, last, size // 2))
        if starts and last - starts[-1] < size // 4:  # nearly the same window as the last one
            starts.pop()
        windows = (x[start : start + size] for start in [*starts, last])
        # One by one, so that memory does not grow with the recording. Silent ones are left out, as encoders normalise
        # the peak and would analyse noise.
        found = [self.controller.encoder(w.reshape(1, 1, -1)) for w in windows if w.abs().max() > SILENT]
        if not found:
            raise UsageError(f"silent: it peaks below {SILENT:g} in every window of {seconds:g} s")
        return torch.cat(found)

    def render(self, dry: Tensor, q: Tensor) -> Tensor:
        """Dry audio (B, 1, T) through the analysis chain at controls q (B, P)."""
        return self.analysis(dry, **self.analysis.from_unit(q))

    def start_from(self, path: str | Path) -> None:
        """Copies the weights of an estimator's file; of another chain's file, those of the same shape only.

        The shapes differ in the last layer alone, which has an output per control. Raises UsageError for another
        encoder or sample rate, and what `load_estimator` raises.
        """
        other, _ = load_estimator(path)
        if any(other.settings[key] != self.settings[key] for key in ("encoder", "sr")):
            raise UsageError(f"--init {path} is of --encoder {other.settings['encoder']}; give this, or another file")
        weights = self.controller.state_dict()
        fitting = {name: w for name, w in other.controller.state_dict().items() if w.shape == weights[name].shape}
        self.controller.load_state_dict(weights | fitting)

    def save(self, path: str | Path, **record: object) -> None:
        """Writes settings, weights and a record of plain values; loading the file executes no code."""
        weights = {name: weight.cpu() for name, weight in self.controller.state_dict().items()}
        content: dict[str, object] = {"settings": self.settings, "weights": weights, "record": record}
        if self.calibration:
            # At half precision the file with this section is smaller than the one without it.
            content |= {"weights": _halved(weights), "calibration": _halved(self.calibration.as_dict())}
        write_tensors(path, content)


@torch.no_grad()
def synthesise(estimator: Estimator, batch: Batch) -> Tensor:
    """The audio (B, 1, T) of a batch, processed by the synthesis at its true controls, in full precision."""
    with torch.autocast(batch["dry"].device.type, enabled=False):
        return estimator.synthesis(batch["dry"], **estimator.synthesis.from_unit(batch["q"]))


def to_mono(x: Tensor) -> tuple[Tensor, str]:
    """The mean of a recording's channels (C, T) as (T,), and a remark ("" as a rule).

    Where the mean cancels the channels, it is the loudest channel instead, and the remark names it.
    """
    power, mono = x.square().mean(1), x.mean(0)
    if len(x) < 2 or mono.square().mean() >= CANCELLED * power.max():
        return mono, ""
    loudest = int(power.argmax())
    return x[loudest], (
        f"the channels cancel when they are summed (opposite polarity): channel {loudest + 1} alone was used"
    )


def temporal_flatness(x: Tensor) -> float:
    """How steady a recording (C, T) is: geometric over arithmetic mean of power over time, the median over bins.

    Steady noise of any colour has e^-0.577 = 0.56, as the power in its bins is exponentially distributed; 79 excerpts
    of 10 s of recorded music had 0.27 at most, half of them below 0.02.
    """
    window = torch.hann_window(2048, dtype=x.dtype, device=x.device)
    power = torch.stft(x.mean(0), 2048, 1024, window=window, return_complex=True).abs().square()
    relative = power / power.mean(1, keepdim=True).clamp(min=1e-20)
    # Without the limit a single frame of digital silence would make the geometric mean of its bin 0.
    return relative.clamp(min=1e-10).log().mean(1).exp().median().item()


def load_estimator(path: str | Path) -> tuple[Estimator, dict]:
    """An estimator from its file, in evaluation mode, and its record.

    Raises UsageError naming the file when it is missing, damaged or not an estimator's.
    """
    path = input_path(path)
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "does not exist"
        names = ", ".join(f"checkpoints/{file.name}" for file in sorted(ESTIMATORS.glob("*.pt")))
        raise UsageError(f"{path}: {wrong}; give the estimator.pt of a training, or one of reknob: {names}")
    content = read_tensors(path)
    settings, weights = _settings(path, content), content.get("weights")
    try:
        estimator = Estimator(**settings)
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(weight, Tensor) and not weight.is_complex()
            for name, weight in weights.items()
        ):
            # Caught below, as UsageError is a ValueError: the message then names the file.
            raise UsageError("no weights by name")
        estimator.controller.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: its weights are not those of its settings ({reason})") from error
    _load_calibration(path, estimator, content)
    # Such weights load without an error; estimates would be NaN.
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UsageError(f"{path}: its weights are not finite; train it again")
    record = content.get("record", {})
    return estimator.eval(), record if isinstance(record, dict) else {}


def load_mean(paths: Sequence[Path]) -> tuple[Estimator, dict]:
    """An estimator with the mean of the weights in several files, and the record of the last of them.

    For estimators of which the last was trained further, from the weights of the others: their mean keeps some of what
    either can do (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). Raises UsageError where their
    settings differ, and what `load_estimator` raises.
    """
    loaded = [load_estimator(path) for path in paths]
    estimator, record = loaded[-1]
    if any(other.settings != estimator.settings for other, _ in loaded):
        raise UsageError(f"{paths[0]}: of another chain, encoder or sample rate than {paths[-1]}; give files of one")
    weights = [other.controller.state_dict() for other, _ in loaded]
    for name, last in weights[-1].items():
        last.copy_(torch.stack([each[name].double() for each in weights]).mean(0))
    return estimator, record


def _halved(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name on the CPU, matrices at half precision."""
    return {name: (x.half() if x.dim() == 2 else x).cpu() for name, x in numbers.items()}


def _load_calibration(path: str | Path, estimator: Estimator, content: dict) -> None:
    """Gives an estimator the calibration in its file, if it has one; UsageError for a damaged or an older one."""
    if "certainty" in content:
        raise UsageError(f"{path}: calibrated by an earlier version; run scripts/calibrate_estimator.py again")
    tables = content.get("calibration")
    if tables is None:
        return
    try:
        if not isinstance(tables, dict) or not all(
            isinstance(x, Tensor) and x.isfinite().all() for x in tables.values()
        ):
            raise UsageError("no finite numbers by name")
        calibration = Calibration(**{name: x.float() for name, x in tables.items()})
        if not calibration.fits(estimator.prior, estimator.controller.encoder.out_dim):
            raise UsageError("tables of other sizes")
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: its calibration does not fit its settings ({reason})") from error
    estimator.calibration = calibration


def _settings(path: str | Path, content: dict) -> EstimatorSettings:
    """The settings in an estimator's file; UsageError where they are none."""
    settings = content.get("settings")
    kinds = EstimatorSettings.__annotations__
    if not isinstance(settings, dict) or {name: type(value) for name, value in settings.items()} != kinds:
        raise UsageError(f"{path}: not an estimator; give a file that train_analysis_net.py wrote (estimator.pt)")
    if not LOWEST_RATE <= settings["sr"] <= HIGHEST_RATE:
        raise UsageError(f"{path}: not an estimator: its sample rate is {settings['sr']} Hz")
    return EstimatorSettings(**settings)
