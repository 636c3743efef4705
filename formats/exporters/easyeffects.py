"""A preset for EasyEffects (Linux, PipeWire), JSON: its equaliser, expander, compressor and convolver."""

import json

from reknob.formats.exporters.impulse import in_two, space_response
from reknob.formats.exporters.parts import Band, Dynamics, Export, Kind, Rig, grouped, heading, number

KINDS = {
    Kind.PEAK: "Bell",
    Kind.LOW_SHELF: "Lo-shelf",
    Kind.HIGH_SHELF: "Hi-shelf",
    Kind.LOW_PASS: "Lo-pass",
    Kind.HIGH_PASS: "Hi-pass",
}
#: The mode of the equaliser that follows the RBJ cookbook, as Equalizer APO does.
MODE = "APO (DR)"
MOST_BANDS = 32
#: Its compressor (of LSP Plugins) reaches 1/√2 of a step in the time it shows: -ln(1 - 1/√2) time constants.
REACHED = 1.228
SILENT_DB = -80.01
SPACE = "-space"  # what follows the stem in the name of the response


def easyeffects(rig: Rig) -> Export:
    """The chain in its order; delay and reverb as an impulse response in a file beside it."""
    mono, space, lacking = in_two(rig)
    plugins: dict[str, dict] = {}
    for part in grouped(mono, lacking):
        if isinstance(part, list):
            _add_equaliser(plugins, part)
        else:
            _add_dynamics(plugins, part[1])
    files = {f"{SPACE}.wav": space_response(rig)} if space else {}
    if space:
        plugins["convolver#0"] = _convolver(rig.stem + SPACE)
    if sum(len(plugin.get("left", ())) for plugin in plugins.values()) > MOST_BANDS:
        lacking.append(f"bands beyond the {MOST_BANDS} that one equaliser of EasyEffects has")
    notes = [
        f'bands have the mode "{MODE}": Q as in the RBJ cookbook; times of the compressor are those of LSP Plugins',
        *([f"copy {rig.stem}{SPACE}.wav into EasyEffects' folder of impulse responses"] if space else []),
    ]
    # JSON has no comments: an entry that EasyEffects ignores holds them.
    tree = {
        "comment": heading(rig, lacking, *notes),
        "output": {"blocklist": [], **plugins, "plugins_order": list(plugins)},
    }
    return Export(json.dumps(tree, indent=4) + "\n", lacking, files)


def _add_equaliser(plugins: dict[str, dict], bands: list[Band]) -> None:
    rows = {f"band{i}": _band(band) for i, band in enumerate(bands[:MOST_BANDS])}
    plugins[f"equalizer#{sum(name.startswith('equalizer') for name in plugins)}"] = {
        "balance": 0.0,
        "bypass": False,
        "input-gain": 0.0,
        "left": rows,
        "mode": "IIR",
        "num-bands": len(rows),
        "output-gain": 0.0,
        "pitch-left": 0.0,
        "pitch-right": 0.0,
        "right": rows,
        "split-channels": False,
    }


def _band(band: Band) -> dict:
    return {
        "frequency": float(number(band.freq)),
        "gain": float(number(band.gain_db or 0.0)),
        "mode": MODE,
        "mute": False,
        "q": float(number(band.Q)),
        "slope": "x1",
        "solo": False,
        "type": KINDS[band.kind],
        "width": 4.0,
    }


def _add_dynamics(plugins: dict[str, dict], dynamics: Dynamics) -> None:
    if dynamics.expands:
        expander = _plugin(dynamics, dynamics.exp_threshold, dynamics.exp_ratio, "Internal")
        plugins[f"expander#{sum(name.startswith('expander') for name in plugins)}"] = expander
    compressor = _plugin(dynamics, dynamics.threshold, dynamics.ratio, "Feed-forward") | {
        "boost-amount": 0.0,
        "boost-threshold": -72.0,
        "knee": -dynamics.knee / 2,
        "makeup": float(number(dynamics.makeup)),
    }
    plugins[f"compressor#{sum(name.startswith('compressor') for name in plugins)}"] = compressor


def _plugin(dynamics: Dynamics, threshold: float, ratio: float, sidechain: str) -> dict:
    """What compressor and expander have in common."""
    return {
        "attack": float(number(REACHED * dynamics.attack_tau)),
        "bypass": False,
        "dry": SILENT_DB,
        "hpf-frequency": 10.0,
        "hpf-mode": "Off",
        "input-gain": 0.0,
        "knee": 0.0,
        "lpf-frequency": 20000.0,
        "lpf-mode": "Off",
        "makeup": 0.0,
        "mode": "Downward",
        "output-gain": 0.0,
        "ratio": float(number(ratio)),
        "release": float(number(REACHED * dynamics.release_tau)),
        "release-threshold": SILENT_DB,
        "sidechain": {
            "lookahead": float(number(dynamics.lookahead)),
            "mode": "RMS" if dynamics.average_tau else "Peak",
            "preamp": 0.0,
            # A window of twice the time constant delays a level as much as the average does.
            "reactivity": float(number(2 * dynamics.average_tau)),
            "source": "Middle",
            "stereo-split-source": "Left/Right",
            "type": sidechain,
        },
        "stereo-split": False,
        "threshold": float(number(threshold)),
        "wet": 0.0,
    }


def _convolver(name: str) -> dict:
    return {
        "autogain": False,
        "bypass": False,
        "dry": -100.0,
        "input-gain": 0.0,
        "ir-width": 100,
        "kernel-name": name,
        "output-gain": 0.0,
        "wet": 0.0,
    }
