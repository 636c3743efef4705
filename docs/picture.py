"""Draws the result of a fit: equaliser, compressor/expander, and the spectra of dry, fitted and wet.

    python -m docs.picture logs/demo/run_0 docs/images/demo.png

The run must be one of the chain in cfg/model/diffvox.yaml or of one that begins like it.
"""

from reknob.runtime.program import program

import argparse
import sys

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import welch
from torch import Tensor

from reknob.afx.chain import cascade_coefs, is_biquad
from reknob.afx.effect import Effect, Values
from reknob.afx.functional import biquad
from reknob.afx.functional.units import gain_to_db
from reknob.data.audio import normalise_loudness, read_audio, resample
from reknob.formats.applied import load_chain
from reknob.formats.run_audio import run_audio
from reknob.formats.runs import META
from reknob.runtime.files import read_json

FREQS = torch.logspace(np.log10(20), np.log10(20000), 400, dtype=torch.float64)
LUFS = -18.0


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", help="run folder")
    p.add_argument("picture", help="file to write: png, svg or pdf")
    args = p.parse_args(argv)
    chain, values = load_chain(
        run=args.run, preset=None, row=0, values=None, fx_config=None, realtime=False, no_delay=False, no_reverb=False
    )
    record = read_json(f"{args.run}/{META}")
    files = {"dry": record["input_path"], "fitted": str(run_audio(args.run)["fitted"]), "wet": record["target_path"]}
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_equaliser(left, chain, values)
    draw_dynamics(middle, values["comp"])
    draw_spectra(right, {name: load(path, chain.sr) for name, path in files.items()}, chain.sr)
    figure.savefig(args.picture, dpi=100)
    return 0


def draw_equaliser(axis: Axes, chain: Effect, values: Values) -> None:
    """Gain in dB over frequency of the filters at the front of the chain, one by one and in series."""
    bands = [part for part in chain.parts() if is_biquad(part)]
    for band in bands:
        coefs = cascade_coefs([band], values).detach()
        axis.semilogx(FREQS, gain_to_db(biquad.response(coefs, FREQS, chain.sr).abs()), "0.8", linewidth=1)
    coefs = cascade_coefs(bands, values).detach()
    axis.semilogx(FREQS, gain_to_db(biquad.response(coefs, FREQS, chain.sr).abs()), "C0", linewidth=2)
    axis.set(title="equaliser", xlabel="frequency (Hz)", ylabel="gain (dB)", xlim=(20, 20000), ylim=(-18, 12))
    axis.grid(alpha=0.3)


def draw_dynamics(axis: Axes, values: Values) -> None:
    """Output level over input level in dB of the compressor/expander at rest."""
    level = np.linspace(-90, 0, 400)
    one = {name: value.item() for name, value in values.items()}
    above = (1 - 1 / one["cmp_ratio"]) * (one["cmp_threshold"] - level)
    below = (1 - 1 / one["exp_ratio"]) * (one["exp_threshold"] - level)
    gain = np.minimum(0, np.minimum(above, below)) + one["makeup"]
    axis.plot(level, level, "0.8", linewidth=1)
    axis.plot(level, level + gain, "C1", linewidth=2)
    axis.set(title="compressor and expander", xlabel="input level (dB)", ylabel="output level (dB)")
    text = f"ratio {one['cmp_ratio']:.1f} : 1\nattack {one['attack']:.1f} ms\nrelease {one['release']:.0f} ms"
    axis.text(0.96, 0.05, text, transform=axis.transAxes, ha="right", va="bottom")
    axis.grid(alpha=0.3)


def load(path: str, sr: int) -> Tensor:
    """A recording's mean of channels (T,), at a rate and a loudness."""
    x, file_sr = read_audio(path)
    return normalise_loudness(resample(x, file_sr, sr).mean(0, keepdim=True), sr, LUFS)[0]


def draw_spectra(axis: Axes, sounds: dict[str, Tensor], sr: int) -> None:
    """Power spectra in dB, each the mean over a third of an octave around every frequency."""
    colours = {"dry": "0.6", "fitted": "C0", "wet": "black"}
    for name, sound in sounds.items():
        f, power = welch(sound.numpy(), sr, nperseg=8192)
        bands = [(f >= centre / 2 ** (1 / 6)) & (f <= centre * 2 ** (1 / 6)) for centre in FREQS.tolist()]
        smooth = [power[band].mean() if band.any() else np.nan for band in bands]
        style = "--" if name == "wet" else "-"
        axis.semilogx(FREQS, 10 * np.log10(smooth), style, color=colours[name], linewidth=2, label=name)
    axis.set(title=f"spectra, all at {LUFS:g} LUFS", xlabel="frequency (Hz)", ylabel="power density (dB/Hz)")
    axis.set_xlim(30, 20000)
    axis.grid(alpha=0.3)
    axis.legend()


if __name__ == "__main__":
    sys.exit(main())
