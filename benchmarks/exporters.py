"""How near the exports of a preset come to this project's own render of it.

    python -m benchmarks.exporters
    python -m benchmarks.exporters --pedalboard PYTHON      with the script, by an interpreter that has pedalboard

Every export is read back as the other program reads it, and applied to the dry recording of the built-in pair: filters
by their type, frequency, gain and Q through scipy; the compressor of CamillaDSP by its recursion; the JSFX by running
its text; impulse responses by convolution. The error is the RMS of the difference over that of our render, in dB.
"""

from reknob.runtime.program import program

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import numpy as np
import torch
import yaml
from scipy.signal import fftconvolve, lfilter
from torch import Tensor

from reknob.afx.effect import Knobs, flatten, values_at
from reknob.afx.registry import build
from reknob.data.audio import normalise_loudness, read_audio, write_audio
from reknob.formats.changes import changed
from reknob.formats.exporters.parts import Rig, band_of, dynamics_of
from reknob.formats.exporters.registry import export, write_export
from reknob.formats.preset_document import PresetDocument
from reknob.report.tables import text_table
from reknob.runtime.settings import read_yaml

ROOT = Path(__file__).resolve().parent.parent
SR, SECONDS = 44100, 6
#: A preset that does a lot of everything.
CHANGES = (
    *("peak1.gain=5", "peak1.freq=350", "peak1.Q=1.4", "peak2.gain=-4", "peak2.freq=2800", "peak2.Q=2"),
    *("low_shelf.gain=-5", "low_shelf.freq=140", "high_shelf.gain=6", "high_shelf.freq=5000"),
    *("low_pass.freq=15000", "low_pass.Q=0.9", "high_pass.freq=90", "high_pass.Q=0.8"),
    *("comp.cmp_threshold=-26", "comp.cmp_ratio=4", "comp.attack=12", "comp.release=120", "comp.makeup=4"),
    *("comp.exp_threshold=-52", "comp.exp_ratio=0.6", "comp.lookahead=3.21", "comp.avg_coef=0.3"),
    *("sends.delay.delay=313.7", "sends.delay.gain=0.3", "sends.delay.feedback=0.4", "sends.direct.pan=0.45"),
    "sends.reverb.c=[[0.1,-0.1,0.08,-0.06,0.09,0.05],[-0.07,0.1,0.06,0.1,-0.08,0.04]]",
)

Coefs = tuple[np.ndarray, np.ndarray]


def example() -> PresetDocument:
    """The preset that is exported: the vocal chain at its defaults, with some values changed."""
    config = read_yaml(ROOT / "cfg" / "model" / "diffvox.yaml")
    chain = build(config, SR).eval()
    raws = Knobs(chain, torch.Generator().manual_seed(0)).state_dict()
    values = flatten(changed(chain, values_at(chain, raws), CHANGES))
    stored = {name: values[name] for name, p in chain.walk() if p.preset}
    return PresetDocument(config, SR, -18.0, stored, name="example")


def cookbook(kind: str, freq: float, Q: float, gain_db: float, sr: int) -> Coefs:
    """Numerator and denominator of a filter of the RBJ cookbook; its kind is pk, lo-s, hi-s, lo-p or hi-p.

    Written anew from the cookbook, so that an error of ours is not repeated.
    """
    w, A = 2 * math.pi * freq / sr, 10 ** (gain_db / 40)
    cos, alpha = math.cos(w), math.sin(w) / (2 * Q)
    if kind == "pk":
        return np.array([1 + alpha * A, -2 * cos, 1 - alpha * A]), np.array([1 + alpha / A, -2 * cos, 1 - alpha / A])
    if kind in ("lo-p", "hi-p"):
        sign = 1 if kind == "lo-p" else -1
        edge = (1 - sign * cos) / 2
        return np.array([edge, 2 * sign * edge, edge]), np.array([1 + alpha, -2 * cos, 1 - alpha])
    sign = 1 if kind == "lo-s" else -1
    root, c = 2 * math.sqrt(A) * alpha, sign * cos
    b = [A + 1 - (A - 1) * c + root, 2 * sign * (A - 1 - (A + 1) * c), A + 1 - (A - 1) * c - root]
    a = [A + 1 + (A - 1) * c + root, -2 * sign * (A - 1 + (A + 1) * c), A + 1 + (A - 1) * c - root]
    return A * np.array(b), np.array(a)


APO_TYPES = {"PK": "pk", "LSC": "lo-s", "HSC": "hi-s", "LPQ": "lo-p", "HPQ": "hi-p", "LS Q": "lo-s", "HS Q": "hi-s"}


def read_filter_text(text: str, sr: int) -> list[Coefs]:
    """The filters of a text of Equalizer APO or REW."""
    number = r"(-?[\d.]+)"
    pattern = rf"^Filter +\d+: ON +([A-Z]+(?: Q)?) +Fc +{number} Hz(?: +Gain +{number} dB)? +Q +{number}$"
    rows = re.findall(pattern, text, re.MULTILINE)
    return [cookbook(APO_TYPES[kind], float(f), float(q), float(gain or 0), sr) for kind, f, gain, q in rows]


def read_easyeffects(text: str, sr: int) -> list[Coefs]:
    """The bands of all equalisers of a preset of EasyEffects, whose mode is that of Equalizer APO."""
    kinds = {"Bell": "pk", "Lo-shelf": "lo-s", "Hi-shelf": "hi-s", "Lo-pass": "lo-p", "Hi-pass": "hi-p"}
    output = json.loads(text)["output"]
    bands = [
        band
        for name in output["plugins_order"]
        if name.startswith("equalizer")
        for band in output[name]["left"].values()
    ]
    assert all(band["mode"] == "APO (DR)" for band in bands)
    return [cookbook(kinds[band["type"]], band["frequency"], band["q"], band["gain"], sr) for band in bands]


def run_lv2(text: str, x: np.ndarray, sr: int) -> np.ndarray:
    """Audio (1, T) through the plug-ins of LV2 presets, in their order, by lv2apply of lilv-utils.

    It does not compensate the latency of a plug-in, which is that of its lookahead.
    """
    program = shutil.which("lv2apply")
    assert program
    presets = re.findall(r"lv2:appliesTo <(\S+)> ;.*?lv2:port (.*?) \.\n", text, re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.wav", Path(folder) / "out.wav"
        write_audio(source, torch.from_numpy(x).float(), sr)
        for plugin, ports in presets:
            values = re.findall(r'lv2:symbol "(\w+)" ; pset:value (\S+) \]', ports)
            controls = [word for symbol, value in values for word in ("-c", symbol, value)]
            subprocess.run([program, "-i", source, "-o", target, *controls, plugin], check=True, capture_output=True)
            source, target = target, source
        return read_audio(source)[0].double().numpy()


def filtered(x: np.ndarray, filters: list[Coefs]) -> np.ndarray:
    """Audio (…, T) through filters in series."""
    for b, a in filters:
        x = lfilter(b, a, x)
    return x


def run_camilladsp(text: str, x: np.ndarray, sr: int, responses: dict[str, np.ndarray]) -> np.ndarray:
    """Audio (2, T) through the pipeline of a configuration of CamillaDSP; `responses` (C, T) by file name."""
    config = yaml.safe_load(text)
    kinds = {"Peaking": "pk", "Lowshelf": "lo-s", "Highshelf": "hi-s", "Lowpass": "lo-p", "Highpass": "hi-p"}
    for step in config["pipeline"]:
        if step["type"] == "Mixer":
            mapping = config["mixers"][step["name"]]["mapping"]
            rows = [sum(x[s["channel"]] * 10 ** (s["gain"] / 20) for s in row["sources"]) for row in mapping]
            x = np.stack(rows)
        elif step["type"] == "Processor":
            x = _camilladsp_compressor(x, config["processors"][step["name"]]["parameters"], sr)
        for name in step.get("names", ()):
            p = config["filters"][name]["parameters"]
            for channel in step["channels"]:
                if p["type"] == "Wav":
                    h = responses[p["filename"]][p["channel"]]
                    x[channel] = fftconvolve(x[channel], h)[: x.shape[1]]
                else:
                    coefs = cookbook(kinds[p["type"]], p["freq"], p["q"], p.get("gain", 0), sr)
                    x[channel] = filtered(x[channel], [coefs])
    return x


def _camilladsp_compressor(x: np.ndarray, p: dict, sr: int) -> np.ndarray:
    """Its level is smoothed in dB, by the attack where it rises; the gain follows at once."""
    attack, release = math.exp(-1 / sr / p["attack"]), math.exp(-1 / sr / p["release"])
    levels = 20 * np.log10(np.abs(x[0]) + 1e-9)
    level, smooth = -100.0, np.empty_like(levels)
    for n, value in enumerate(levels.tolist()):
        pole = attack if value >= level else release
        level = pole * level + (1 - pole) * value
        smooth[n] = level
    gain = np.minimum(0, (p["threshold"] - smooth) * (p["factor"] - 1) / p["factor"]) + p["makeup_gain"]
    return x * 10 ** (gain / 20)


def run_jsfx(text: str, x: np.ndarray, sr: int) -> tuple[np.ndarray, int]:
    """The output (2, T) of a JSFX for audio (2, T), and the samples by which it asks the host to compensate it.

    Reads the subset of EEL2 that the exporter writes: an assignment a line, `^` for powers, `a ? b : c`.
    """
    variables: dict[str, object] = {"srate": float(sr), "pi": math.pi, "pdc_delay": 0}
    variables |= {name: getattr(math, name) for name in ("sin", "cos", "exp", "log10", "sqrt", "ceil")}
    variables |= {"min": min, "max": max, "__builtins__": {}}
    for n, value in re.findall(r"^slider(\d+):(-?[\d.]+)<", text, re.MULTILINE):
        variables[f"slider{n}"] = float(value)
    code: dict[str, CodeType] = {}
    for section, body in re.findall(r"^(@\w+)\n(.*?)(?=^@|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [_as_python(line) for line in body.strip().splitlines()]
        code[section] = compile("\n".join(lines), section, "exec")
    for name in set(re.findall(r"(\w+_line)\[", text)):
        variables[name] = [0.0] * 65536
    lines = {name: value for name, value in variables.items() if name.endswith("_line")}
    exec(code["@init"], variables)  # noqa: S102 - text of our own exporter
    variables |= lines
    exec(code["@slider"], variables)  # noqa: S102
    y = np.empty_like(x)
    for n in range(x.shape[1]):
        variables["spl0"], variables["spl1"] = float(x[0, n]), float(x[1, n])
        exec(code["@sample"], variables)  # noqa: S102
        y[:, n] = variables["spl0"], variables["spl1"]
    wait = variables["pdc_delay"]
    assert isinstance(wait, int)
    return y, wait


def _as_python(line: str) -> str:
    assert line.endswith(";"), line
    target, _, value = line[:-1].replace("$pi", "pi").replace("^", "**").partition(" = ")
    choice = re.fullmatch(r"(.+) \? (.+) : (.+)", value)
    return f"{target} = {f'({choice[2]}) if {choice[1]} else ({choice[3]})' if choice else value}"


def ours(document: PresetDocument, x: np.ndarray, wanted: Callable[[object], bool] = bool) -> np.ndarray:
    """Mono audio (1, T) through the steps of a preset that are wanted."""
    y = torch.from_numpy(x).float()[None]
    with torch.no_grad():
        for step in Rig(document, "").steps:
            if wanted(step):
                y = step.effect(y, **step.values)
    return y[0].double().numpy()


def error_db(y: np.ndarray, truth: np.ndarray) -> float:
    """RMS of a difference over that of the truth, in dB."""
    return 10 * math.log10(max(np.mean((y - truth) ** 2) / np.mean(truth**2), 1e-20))


def level_difference(y: np.ndarray, truth: np.ndarray, sr: int) -> tuple[float, float]:
    """Median and 95 % quantile of the difference in level in dB over windows of 50 ms, of those within 40 dB."""
    size = sr // 20
    frames = [z[:, : z.shape[1] // size * size].reshape(len(z), -1, size) for z in (y, truth)]
    powers = [np.mean(frame**2, (0, 2)) for frame in frames]
    loud = powers[1] > 1e-4 * powers[1].max()
    difference = np.abs(10 * np.log10(powers[0][loud] / powers[1][loud]))
    return float(np.median(difference)), float(np.quantile(difference, 0.95))


def measure(document: PresetDocument, x: np.ndarray, sr: int, pedalboard: str | None) -> list[list[str]]:
    """A row for each export and part: format, part, error in dB, difference in level in dB."""
    stereo = np.repeat(x, 2, 0)
    bands = ours(document, x, lambda step: band_of(step) is not None)
    plain = ours(document, x, lambda step: band_of(step) is not None or dynamics_of(step) is not None)
    whole = ours(document, x)
    rows = []

    def row(name: str, part: str, y: np.ndarray, truth: np.ndarray) -> None:
        median, most = level_difference(y, truth, sr)
        rows.append([name, part, f"{error_db(y, truth):.0f}", f"{median:.2f}", f"{most:.2f}"])

    for name in ("equalizer-apo", "rew"):
        row(name, "equaliser", filtered(x, read_filter_text(str(export(document, name).content), sr)), bands)
    row(
        "easyeffects",
        "equaliser",
        filtered(x, read_easyeffects(str(export(document, "easyeffects").content), sr)),
        bands,
    )
    if shutil.which("lv2apply"):
        still = without_dynamics(document)
        row("lv2", "equaliser", run_lv2(str(export(still, "lv2").content), x, sr), bands)
        y = run_lv2(str(export(document, "lv2").content), x, sr)
        wait = lag(y[0], plain[0])
        row("lv2", "equaliser, compressor", y[:, wait:], plain[:, : x.shape[1] - wait])
    made = export(document, "camilladsp", "v")
    responses = {f"v{end}": h.double().numpy() for end, h in made.files.items()}
    text = str(made.content)
    row("camilladsp", "whole chain", run_camilladsp(text, stereo, sr, responses), whole)
    no_comp = yaml.safe_load(text)
    no_comp["pipeline"] = [step for step in no_comp["pipeline"] if step["type"] != "Processor"]
    linear = ours(document, x, lambda step: dynamics_of(step) is None)
    row("camilladsp", "without compressor", run_camilladsp(yaml.safe_dump(no_comp), stereo, sr, responses), linear)
    for name, truth in (("ir-eq", bands), ("ir", linear)):
        h = export(document, name).content
        assert isinstance(h, Tensor)
        row(name, "linear parts", fftconvolve(x, h.double().numpy(), axes=1)[:, : x.shape[1]], truth)
    h = export(document, "ir-space").content
    assert isinstance(h, Tensor)
    row("ir-space", "after the compressor", fftconvolve(plain, h.double().numpy(), axes=1)[:, : x.shape[1]], whole)
    # At the very end the chain holds its last gain, and the plug-in has met the silence that follows.
    y, wait = run_jsfx(str(export(document, "jsfx").content), np.pad(stereo, ((0, 0), (0, 1000))), sr)
    row("jsfx", "equaliser, compressor", y[:1, wait : x.shape[1]], plain[:, : x.shape[1] - wait])
    if pedalboard:
        row("pedalboard", "whole chain", run_pedalboard(document, x, sr, pedalboard), whole)
        row("pedalboard", "without compressor", run_pedalboard(without_dynamics(document), x, sr, pedalboard), linear)
    return rows


def without_dynamics(document: PresetDocument) -> PresetDocument:
    """The preset with a compressor/expander that does nothing."""
    off = changed(
        document.effect,
        document.tensors(),
        ["comp.cmp_ratio=1", "comp.exp_ratio=1", "comp.makeup=0", "comp.lookahead=0"],
    )
    return PresetDocument(
        document.chain, document.sr, None, {n: v for n, v in flatten(off).items() if n in document.values}
    )


def lag(y: np.ndarray, truth: np.ndarray) -> int:
    """By how many samples `y` (T,) is later than `truth`, 0 to 2000."""
    correlation = fftconvolve(y, truth[::-1])[len(truth) - 1 :]
    return int(correlation[:2000].argmax())


def run_pedalboard(document: PresetDocument, x: np.ndarray, sr: int, python: str) -> np.ndarray:
    """Audio (1, T) through the script, in an environment that has pedalboard."""
    with tempfile.TemporaryDirectory() as folder:
        script, source, target = (Path(folder) / name for name in ("board.py", "in.wav", "out.wav"))
        write_export(document, "pedalboard", script)
        write_audio(source, torch.from_numpy(x).float(), sr)
        # As floats: the script's own file of 16 bits would limit the comparison.
        code = (
            f"import sys; sys.argv = ['board.py']; sys.path.insert(0, {folder!r}); import board, soundfile as sf; "
            f"y, sr = sf.read({str(source)!r}, dtype='float32'); "
            f"sf.write({str(target)!r}, board.process(y[None]).T, sr, 'FLOAT')"
        )
        subprocess.run([python, "-c", code], check=True)
        return read_audio(target)[0].double().numpy()


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pedalboard", metavar="PYTHON", help="an interpreter that has pedalboard, scipy and soundfile")
    args = p.parse_args(argv)
    dry, sr = read_audio(ROOT / "data" / "demo" / "dry.flac")
    assert sr == SR
    x = normalise_loudness(dry.mean(0, keepdim=True)[:, : SECONDS * sr], sr, -18.0).double().numpy()
    header = ["format", "part", "error dB", "level, median dB", "level, 95 % dB"]
    print(text_table(header, measure(example(), x, sr, args.pedalboard)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
