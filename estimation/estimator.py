"""The estimator: a controller and the chain whose settings it hears, and the file that holds both."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reknob.afx.registry import parse_chain
from reknob.data.decoding import HIGHEST_RATE, LOWEST_RATE
from reknob.data.recordings import SILENT
from reknob.encoders import build_controller
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors, write_tensors

CANCELLED = 0.01  # power of the channels' mean relative to the loudest: of unrelated channels it is 0.25 and more
STEADY = 0.45  # more than this is noise, see `temporal_flatness`


class Estimator(nn.Module):
    """Settings of an effect chain from the processed sound alone.

    Args:
        sfx, afx: chain keys of the synthesis that is heard and of the analysis whose settings are estimated.
        encoder: key of the encoder.
        sr: sample rate in Hz.

    Raises UsageError for an unknown key.
    """

    def __init__(self, *, sfx: str, afx: str, encoder: str, sr: int = 44100):
        super().__init__()
        self.settings = {"sfx": sfx, "afx": afx, "encoder": encoder, "sr": sr}
        self.synthesis = parse_chain(sfx, sr, "synthesis")
        self.analysis = parse_chain(afx, sr, "analysis")
        self.controller = build_controller(encoder, len(self.analysis.controls()), sr)

    @property
    def same_controls(self) -> bool:
        """Whether true and estimated settings can be compared one by one."""
        return self.synthesis.controls() == self.analysis.controls()

    def forward(self, wet: Tensor) -> Tensor:
        """Controls q (B, P) in [0, 1] of processed audio (B, 1, T)."""
        return self.controller(wet)

    @torch.no_grad()
    def estimate_windows(self, x: Tensor, seconds: float = 10.0) -> Tensor:
        """Controls (W, P) heard in each window of a recording (C, T), silent windows left out.

        Windows last `seconds` s and overlap by half, the last two by up to three quarters; a shorter recording is one
        window. Raises UsageError where all is silent, or too short for the encoder.
        """
        x, size = to_mono(x)[0], round(seconds * self.settings["sr"])
        last = max(len(x) - size, 0)
        starts = list(range(0, last, size // 2))
        if starts and last - starts[-1] < size // 4:  # nearly the same window as the last one
            starts.pop()
        windows = (x[start : start + size] for start in [*starts, last])
        heard = [self(window.reshape(1, 1, -1)) for window in windows if window.abs().max() > SILENT]
        if not heard:
            raise UsageError(f"silent: it peaks below {SILENT:g} in every window of {seconds:g} s")
        return torch.cat(heard)

    def render(self, dry: Tensor, q: Tensor) -> Tensor:
        """Dry audio (B, 1, T) through the analysis chain at controls q (B, P)."""
        return self.analysis(dry, **self.analysis.from_unit(q))

    def begin_with(self, path: str | Path) -> None:
        """Takes the weights of an estimator's file, also of another chain's, whose last layer has other outputs.

        Raises UsageError for another encoder or sample rate, and what `load_estimator` raises.
        """
        other, _ = load_estimator(path)
        if any(other.settings[key] != self.settings[key] for key in ("encoder", "sr")):
            raise UsageError(f"--init {path} is of --encoder {other.settings['encoder']}; give this, or another file")
        own = self.controller.state_dict()
        fitting = {name: w for name, w in other.controller.state_dict().items() if w.shape == own[name].shape}
        self.controller.load_state_dict(own | fitting)

    def save(self, path: str | Path, **record: object) -> None:
        """Writes settings, weights and a record of plain values; nothing of it is code."""
        state = {name: weight.cpu() for name, weight in self.controller.state_dict().items()}
        write_tensors(path, {"settings": self.settings, "weights": state, "record": record})


def to_mono(x: Tensor) -> tuple[Tensor, str]:
    """The mean of the channels of a recording (C, T), (T,); where they cancel, the loudest channel, and a remark."""
    power, mono = x.square().mean(1), x.mean(0)
    if len(x) < 2 or mono.square().mean() >= CANCELLED * power.max():
        return mono, ""
    return x[int(power.argmax())], (
        "the channels cancel when they are added (opposite polarity), which leaves a residue: "
        f"channel {int(power.argmax()) + 1} alone was used"
    )


def temporal_flatness(x: Tensor) -> float:
    """How little a sound (C, T) changes: geometric over arithmetic mean of power over time, the median over bins.

    Steady noise of any colour has e^-0.577 = 0.56, whose bins are exponentially distributed; 79 stretches of 10 s of
    recorded music had 0.27 at most, half of them below 0.02.
    """
    window = torch.hann_window(2048, dtype=x.dtype, device=x.device)
    power = torch.stft(x.mean(0), 2048, 1024, window=window, return_complex=True).abs().square()
    relative = power / power.mean(1, keepdim=True).clamp(min=1e-20)
    return relative.clamp(min=1e-10).log().mean(1).exp().median().item()


def load_estimator(path: str | Path) -> tuple[Estimator, dict]:
    """An estimator from its file, in evaluation mode, and its record.

    Raises UsageError naming the file when it is damaged or is not an estimator's.
    """
    content = read_tensors(path)
    settings, weights = content.get("settings"), content.get("weights")
    kinds = {"sfx": str, "afx": str, "encoder": str, "sr": int}
    known = isinstance(settings, dict) and set(settings) == set(kinds)
    if not known or any(type(settings[key]) is not kind for key, kind in kinds.items()):
        raise UsageError(f"{path}: not an estimator; give a file that train_analysis_net.py wrote (estimator.pt)")
    if not LOWEST_RATE <= settings["sr"] <= HIGHEST_RATE:
        raise UsageError(f"{path}: not an estimator: its sample rate is {settings['sr']} Hz")
    try:
        estimator = Estimator(**settings)
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
        ):
            raise UsageError("no weights by name")
        estimator.controller.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: its weights are not those of its settings ({reason})") from error
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UsageError(f"{path}: its weights are not finite; train it again")
    record = content.get("record", {})
    return estimator.eval(), record if isinstance(record, dict) else {}
