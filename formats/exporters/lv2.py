"""A preset as LV2 presets of LSP Plugins, for Ardour and other hosts, in Turtle: equaliser, expander and compressor."""

import json

from reknob.formats.exporters.easyeffects import KINDS, MOST_BANDS, REACHED, SPACE
from reknob.formats.exporters.impulse import in_two, space_response
from reknob.formats.exporters.parts import Band, Dynamics, Export, Rig, comments, grouped, heading

PLUGINS = {
    "equaliser": "http://lsp-plug.in/plugins/lv2/para_equalizer_x32_mono",
    "expander": "http://lsp-plug.in/plugins/lv2/expander_mono",
    "compressor": "http://lsp-plug.in/plugins/lv2/compressor_mono",
}
TYPES = {"Bell": 1, "Hi-pass": 2, "Hi-shelf": 3, "Lo-pass": 4, "Lo-shelf": 5}
APO = 6  # the mode of a filter that follows the RBJ cookbook
LOWEST = -60.0  # dB, of a threshold; for a lower one the level of the detector is raised
MOST_RAISED = 40.0  # dB
PREFIXES = """@prefix lv2: <http://lv2plug.in/ns/lv2core#> .
@prefix pset: <http://lv2plug.in/ns/ext/presets#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
"""
Ports = dict[str, float]


def lv2(rig: Rig) -> Export:
    """The chain in its order, one preset for each plug-in; delay and reverb as an impulse response in another file."""
    mono, space, lacking = in_two(rig)
    presets: list[tuple[str, Ports]] = []
    for part in grouped(mono, lacking):
        if isinstance(part, list):
            presets += _equalisers(part)
            continue
        step, dynamics = part
        if dynamics.expands:
            ports = _ports(dynamics, dynamics.exp_threshold, step, lacking)
            presets.append(("expander", ports | {"em": 0, "er": dynamics.exp_ratio, "kn": 1}))
        ports = _ports(dynamics, dynamics.threshold, step, lacking)
        own = {"sct": 0, "cm": 0, "cr": dynamics.ratio, "kn": _factor(-dynamics.knee / 2)}
        presets.append(("compressor", ports | own | {"mk": _factor(dynamics.makeup)}))
    notes = [
        f"copy it to ~/.lv2/{rig.stem}.lv2/manifest.ttl and use its presets in this order, each in its plug-in",
        *([f"then {rig.stem}{SPACE}.wav in a convolver, without its dry signal"] if space else []),
    ]
    name = " ".join(rig.document.name.split()) or rig.stem
    entries = [_entry(name, number, plugin, ports) for number, (plugin, ports) in enumerate(presets, 1)]
    text = comments(heading(rig, lacking, *notes), "#") + PREFIXES + "".join(entries)
    return Export(text, lacking, {f"{SPACE}.wav": space_response(rig)} if space else {})


def _equalisers(bands: list[Band]) -> list[tuple[str, Ports]]:
    """The presets of equalisers for bands in series."""
    starts = range(0, len(bands), MOST_BANDS)
    return [("equaliser", _equaliser(bands[start : start + MOST_BANDS])) for start in starts]


def _equaliser(bands: list[Band]) -> Ports:
    ports: Ports = {"enabled": 1, "g_in": 1, "g_out": 1, "mode": 0}
    for i in range(MOST_BANDS):
        ports[f"ft_{i}"] = 0  # also in a plug-in that has filters already
    for i, band in enumerate(bands):
        gain = _factor(band.gain_db or 0.0)
        ports |= {f"ft_{i}": TYPES[KINDS[band.kind]], f"fm_{i}": APO, f"s_{i}": 0, f"xs_{i}": 0, f"xm_{i}": 0}
        ports |= {f"f_{i}": band.freq, f"g_{i}": gain, f"q_{i}": band.Q}
    return ports


def _ports(dynamics: Dynamics, threshold: float, name: str, lacking: list[str]) -> Ports:
    """What compressor and expander have in common."""
    raised = min(max(LOWEST - threshold, 0.0), MOST_RAISED)
    if threshold < LOWEST - MOST_RAISED:
        lacking.append(f"{name}: a threshold of {threshold:.1f} dB is {LOWEST - MOST_RAISED:g} dB there, the lowest")
    return {
        "enabled": 1,
        "g_in": 1,
        "g_out": 1,
        "scm": 1 if dynamics.average_tau else 0,
        "sla": dynamics.lookahead,
        # A window of twice the time constant delays a level as much as the average does.
        "scr": 2 * dynamics.average_tau,
        "scp": _factor(raised),
        "shpm": 0,
        "slpm": 0,
        "al": _factor(max(threshold, LOWEST)),
        "at": REACHED * dynamics.attack_tau,
        "rrl": 0,
        "rt": REACHED * dynamics.release_tau,
        "mk": 1,
        "cdr": 0,
        "cwt": 1,
    }


def _factor(db: float) -> float:
    """A level in dB as a factor, which ports take."""
    return 10 ** (db / 20)


def _entry(name: str, number: int, plugin: str, ports: Ports) -> str:
    """One preset; its label begins with the place in the chain."""
    # JSON's escapes are Turtle's.
    label = json.dumps(f"{name} {number} {plugin}")
    values = " ,\n\t".join(f'[ lv2:symbol "{symbol}" ; pset:value {value:#.9g} ]' for symbol, value in ports.items())
    return (
        f"\n<#{number}> a pset:Preset ;\n\tlv2:appliesTo <{PLUGINS[plugin]}> ;\n"
        f"\trdfs:label {label} ;\n\tlv2:port {values} .\n"
    )
