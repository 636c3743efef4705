"""A preset as filters, mixers, a processor and a pipeline of CamillaDSP, YAML."""

import math

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
    pan_of,
    without,
)
from reknob.runtime.trees import yaml_text

KINDS = {
    Kind.PEAK: "Peaking",
    Kind.LOW_SHELF: "Lowshelf",
    Kind.HIGH_SHELF: "Highshelf",
    Kind.LOW_PASS: "Lowpass",
    Kind.HIGH_PASS: "Highpass",
}
DETECTOR = "its level follows the peaks in dB, the chain smooths the gain"
SPACE = "-space.wav"  # what follows the stem in the name of the response
NOTES = (
    "For CamillaDSP 3, below your `devices`: two channels in, averaged to mono as the chain takes it, two out.",
    "Q as in the RBJ cookbook. The compressor's times are time constants (63 %) in s of its level, which is in dB.",
)


def camilladsp(rig: Rig) -> Export:
    """The chain in its order: bands, compressor, and delay and reverb as an impulse response in a file beside it."""
    mono, space, lacking = in_two(rig)
    filters: dict[str, dict] = {}
    processors: dict[str, dict] = {}
    pipeline: list[dict] = [_step("to_mono")]
    for step in mono:
        band, dynamics, name = band_of(step), dynamics_of(step), step.name.replace(".", "_")
        if band:
            filters[name] = _biquad(band)
            pipeline.append(_filter(0, name))
        elif dynamics:
            processors[name] = _compressor(dynamics)
            pipeline.append({"type": "Processor", "name": name})
            lacking += without(step.name, dynamics, DETECTOR, expander=False)
        else:
            lacking.append(lacks(step))
    gains = pan_of(space[0]) if len(space) == 1 else None
    files = {SPACE: space_response(rig)} if space and gains is None else {}
    pipeline.append(_step("to_stereo"))
    for channel in range(2) if files else ():
        filters[f"space_{channel}"] = _convolution(rig.stem + SPACE, channel)
        pipeline.append(_filter(channel, f"space_{channel}"))
    mixers = {
        "to_mono": _mixer(2, [[(0, -6.0206), (1, -6.0206)]]),
        "to_stereo": _mixer(1, [[(0, 20 * math.log10(max(gain, 1e-6)))] for gain in gains or (1.0, 1.0)]),
    }
    tree = {"filters": filters, "mixers": mixers, "processors": processors, "pipeline": pipeline}
    text = yaml_text({name: part for name, part in tree.items() if part})
    return Export(comments(heading(rig, lacking, *NOTES), "#") + text, lacking, files)


def _biquad(band: Band) -> dict:
    parameters: dict[str, object] = {"type": KINDS[band.kind], "freq": _rounded(band.freq), "q": _rounded(band.Q)}
    if band.gain_db is not None:
        parameters["gain"] = _rounded(band.gain_db)
    return {"type": "Biquad", "parameters": parameters}


def _compressor(dynamics: Dynamics) -> dict:
    parameters = {
        "channels": 1,
        "monitor_channels": [0],
        "process_channels": [0],
        "attack": _rounded(dynamics.attack_tau / 1000),
        "release": _rounded(dynamics.release_tau / 1000),
        "threshold": _rounded(dynamics.threshold),
        "factor": _rounded(dynamics.ratio),
        "makeup_gain": _rounded(dynamics.makeup),
    }
    return {"type": "Compressor", "parameters": parameters}


def _mixer(inputs: int, sources: list[list[tuple[int, float]]]) -> dict:
    """A mixer: for each output, its source channels and their gains in dB."""
    mapping = [
        {"dest": dest, "sources": [{"channel": channel, "gain": round(gain, 4)} for channel, gain in row]}
        for dest, row in enumerate(sources)
    ]
    return {"channels": {"in": inputs, "out": len(sources)}, "mapping": mapping}


def _step(mixer: str) -> dict:
    return {"type": "Mixer", "name": mixer}


def _filter(channel: int, name: str) -> dict:
    return {"type": "Filter", "channels": [channel], "names": [name]}


def _convolution(filename: str, channel: int) -> dict:
    return {"type": "Conv", "parameters": {"type": "Wav", "filename": filename, "channel": channel}}


def _rounded(x: float) -> float:
    return float(number(x))
