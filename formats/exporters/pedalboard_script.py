"""A preset as a Python script that needs pedalboard, numpy and scipy, and not this project."""

from reknob.formats.exporters.impulse import in_two, space_response
from reknob.formats.exporters.parts import (
    HIGH_PASS,
    HIGH_SHELF,
    LOW_PASS,
    LOW_SHELF,
    PEAK,
    Band,
    Dynamics,
    Export,
    Rig,
    band_of,
    comments,
    dynamics_of,
    heading,
    lacks,
    number,
)

KINDS = {PEAK: "PeakFilter", LOW_SHELF: "LowShelfFilter", HIGH_SHELF: "HighShelfFilter"}
#: Its compressor (of JUCE) falls by exp(-2π) in the time it is given: 2π time constants.
TIME = 6.2832
SPACE = "-space.wav"
NOTES = (
    "Bands: Q as in the RBJ cookbook. Low- and high-pass are scipy's, as those of pedalboard have 6 dB per octave.",
    f"Compressor: attack_ms and release_ms are {TIME} time constants.",
)

_PASSES = '''
def second_order(kind, freq, q):
    """A low- or high-pass of 12 dB per octave, RBJ cookbook, as a function of audio."""
    w = 2 * np.pi * freq / SR
    alpha, sign = np.sin(w) / (2 * q), 1 if kind == "low" else -1
    b = (1 - sign * np.cos(w)) / 2 * np.array([1, 2 * sign, 1])
    a = np.array([1 + alpha, -2 * np.cos(w), 1 - alpha])
    return lambda x: lfilter(b, a, x).astype(np.float32)

'''
_PLUG = """
def plug(plugin):
    return lambda x: plugin(x, SR)
"""
_PROCESS = '''

def process(x):
    """Mono or stereo audio (C, T) at SR Hz, full scale 1, to stereo (2, T)."""
    x = np.atleast_2d(x).mean(0, keepdims=True).astype(np.float32)
    for step in STEPS:
        x = step(x)
    return np.repeat(x, 2 // len(x), 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("give an input and an output file")
    with AudioFile(sys.argv[1]).resampled_to(SR) as file:
        audio = file.read(file.frames)
    with AudioFile(sys.argv[2], "w", SR, 2) as file:
        file.write(process(audio))
'''
_CONVOLVE = '''
def space(x):
    """Delay, reverb and panning, from mono to stereo."""
    with AudioFile(str(Path(__file__).with_name({name!r}))) as file:
        h = file.read(file.frames)
    return fftconvolve(x, h, axes=1)[:, : x.shape[1]].astype(np.float32)

'''


def pedalboard_script(rig: Rig) -> Export:
    """The chain in its order; delay and reverb as an impulse response in a file beside the script."""
    mono, space, lacking = in_two(rig)
    steps = []
    for step in mono:
        band, dynamics = band_of(step), dynamics_of(step)
        if band:
            steps.append((_band(band), step.name))
        elif dynamics:
            steps += [(code, step.name) for code in _dynamics(dynamics)]
            lacking += _without(step.name, dynamics)
        else:
            lacking.append(lacks(step))
    if space:
        steps.append(("space", ", ".join(step.name for step in space)))
    files = {SPACE: space_response(rig)} if space else {}
    imports = (
        "import sys\nfrom pathlib import Path\n\nimport numpy as np\nimport pedalboard as pb\n"
        "from pedalboard.io import AudioFile\nfrom scipy.signal import fftconvolve, lfilter\n"
    )
    head = comments([*heading(rig, lacking, *NOTES), "Run: python SCRIPT in.wav out.wav"], "#")
    listed = "".join(f"    {code},  # {name}\n" for code, name in steps)
    body = f"\nSR = {rig.sr}  # Hz\n\n" + _PASSES + (_CONVOLVE.format(name=rig.stem + SPACE) if space else "")
    return Export(f"{head}{imports}{body}{_PLUG}\n\nSTEPS = [\n{listed}]\n{_PROCESS}", lacking, files)


def _band(band: Band) -> str:
    if band.gain_db is None:
        kind = "low" if band.kind == LOW_PASS else "high"
        assert band.kind in (LOW_PASS, HIGH_PASS)
        return f'second_order("{kind}", {number(band.freq)}, {number(band.Q)})'
    return f"plug(pb.{KINDS[band.kind]}({number(band.freq)}, {number(band.gain_db)}, {number(band.Q)}))"


def _dynamics(dynamics: Dynamics) -> list[str]:
    times = f"{number(TIME * dynamics.attack_tau)}, {number(TIME * dynamics.release_tau)}"
    steps = []
    if dynamics.expands:
        steps.append(f"plug(pb.NoiseGate({number(dynamics.exp_threshold)}, {number(dynamics.exp_ratio)}, {times}))")
    steps.append(f"plug(pb.Compressor({number(dynamics.threshold)}, {number(dynamics.ratio)}, {times}))")
    return [*steps, f"plug(pb.Gain({number(dynamics.makeup)}))"]


def _without(name: str, dynamics: Dynamics) -> list[str]:
    missing = [f"{name}: pedalboard smooths the level, the chain the gain: the transients differ"]
    if dynamics.lookahead > 0.1:
        missing.append(f"{name}: the lookahead of {dynamics.lookahead:.2f} ms")
    if dynamics.knee:
        missing.append(f"{name}: the knee of {dynamics.knee:.1f} dB")
    return missing
