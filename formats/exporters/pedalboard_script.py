"""A preset as a Python script that needs pedalboard, numpy and scipy, and not this project."""

from pathlib import Path

from reknob.formats.exporters.impulse import in_two, space_response
from reknob.formats.exporters.parts import (
    Band,
    Dynamics,
    Export,
    Kind,
    Rig,
    band_of,
    comments,
    dynamics_of,
    heading,
    lacks,
    number,
    without,
)

KINDS = {Kind.PEAK: "PeakFilter", Kind.LOW_SHELF: "LowShelfFilter", Kind.HIGH_SHELF: "HighShelfFilter"}
#: Its compressor (of JUCE) falls by exp(-2π) in the time it is given: 2π time constants.
TIME = 6.2832
DETECTOR = "pedalboard smooths the level, the chain the gain"
SPACE = "-space.wav"
NOTES = (
    "Bands: Q as in the RBJ cookbook. Low- and high-pass are scipy's, as those of pedalboard have 6 dB per octave.",
    f"Compressor: attack_ms and release_ms are {TIME} time constants.",
)
#: What is the same in every script.
TEMPLATE = Path(__file__).with_name("pedalboard.txt")


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
            lacking += without(step.name, dynamics, DETECTOR, expander=True)
        else:
            lacking.append(lacks(step))
    if space:
        steps.append((f"convolve({rig.stem + SPACE!r})", ", ".join(step.name for step in space)))
    files = {SPACE: space_response(rig)} if space else {}
    head = comments([*heading(rig, lacking, *NOTES), "Run: python SCRIPT in.wav out.wav"], "#")
    listed = "".join(f"    {code},  # {name}\n" for code, name in steps)
    body = TEMPLATE.read_text(encoding="utf-8").replace("@SR@", str(rig.sr)).replace("@STEPS@", listed)
    return Export(head + body, lacking, files)


def _band(band: Band) -> str:
    if band.gain_db is None:
        kind = "low" if band.kind == Kind.LOW_PASS else "high"
        assert band.kind in (Kind.LOW_PASS, Kind.HIGH_PASS)
        return f'second_order("{kind}", {number(band.freq)}, {number(band.Q)})'
    return f"plug(pb.{KINDS[band.kind]}({number(band.freq)}, {number(band.gain_db)}, {number(band.Q)}))"


def _dynamics(dynamics: Dynamics) -> list[str]:
    times = f"{number(TIME * dynamics.attack_tau)}, {number(TIME * dynamics.release_tau)}"
    steps = []
    if dynamics.expands:
        steps.append(f"plug(pb.NoiseGate({number(dynamics.exp_threshold)}, {number(dynamics.exp_ratio)}, {times}))")
    steps.append(f"plug(pb.Compressor({number(dynamics.threshold)}, {number(dynamics.ratio)}, {times}))")
    return [*steps, f"plug(pb.Gain({number(dynamics.makeup)}))"]
