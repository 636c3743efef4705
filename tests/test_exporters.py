"""Exports, each read back as the other program reads it and compared with this project's own render."""

import csv
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.signal import fftconvolve
from torch import Tensor

from benchmarks.exporters import (
    error_db,
    example,
    filtered,
    ours,
    read_easyeffects,
    read_filter_text,
    run_camilladsp,
    run_jsfx,
    run_lv2,
    without_dynamics,
)
from reknob.afx.effect import Knobs, flatten
from reknob.afx.registry import EFFECTS, build, parse_chain
from reknob.data.audio import read_audio
from reknob.formats.exporters.parts import band_of, dynamics_of
from reknob.formats.exporters.registry import EXPORTERS, export, write_export
from reknob.formats.preset_document import PresetDocument, read_document
from scripts import export as program

SR = 44100
RNG = np.random.default_rng(0)
#: Noise whose level rises and falls, 0.2 s.
X = RNG.normal(size=(1, SR // 5)) * 0.3 * np.abs(np.sin(np.arange(SR // 5) / 900))


@pytest.fixture(scope="module")
def preset() -> PresetDocument:
    """The full chain with short responses and a lookahead of whole samples."""
    document = example()
    chain = json.loads(json.dumps(document.chain))
    chain["sends"]["delay"]["ir_duration"], chain["sends"]["reverb"]["ir_duration"] = 2, 0.5
    values = document.values | {"comp.lookahead": torch.tensor(1000 * 100 / SR)}
    short = build(chain, SR)
    gamma = dict(short.walk())["sends.reverb.gamma"]
    values["sends.reverb.gamma"] = torch.full(gamma.shape, 0.5 * gamma.mapping.hi)
    return PresetDocument(chain, SR, -18.0, values, name="voice\x0c\u2028x")


def is_band(step: object) -> bool:
    return band_of(step) is not None


def is_dynamic(step: object) -> bool:
    return dynamics_of(step) is not None


@pytest.mark.parametrize("name", ["equalizer-apo", "rew", "easyeffects"])
def test_bands_written_as_text_are_the_equaliser(name: str, preset: PresetDocument) -> None:
    made = export(preset, name)
    read = read_easyeffects if name == "easyeffects" else read_filter_text
    filters = read(str(made.content), SR)
    assert len(filters) == 6
    assert error_db(filtered(X, filters), ours(preset, X, is_band)) < -90
    assert any(line.startswith("comp") for line in made.lacking)


def test_the_bands_of_blind_estimation_are_exported_too() -> None:
    chain = parse_chain("geq_peq", SR, "analysis")
    q = torch.rand(1, len(chain.controls()), generator=torch.Generator().manual_seed(0))
    values = {name: value[0] for name, value in flatten(chain.from_unit(q)).items()}
    document = PresetDocument("geq_peq", SR, None, values)
    text = str(export(document, "equalizer-apo").content)
    assert "which this export does not" in text
    assert error_db(filtered(X, read_filter_text(text, SR)), ours(document, X)) < -90


def test_impulse_responses_are_the_linear_parts(preset: PresetDocument, tmp_path: Path) -> None:
    paths, lacking = write_export(preset, "ir", tmp_path / "all.wav")
    h, sr = read_audio(paths[0])
    assert sr == SR and h.shape[0] == 2 and any("comp" in line for line in lacking)
    linear = ours(preset, X, lambda step: not is_dynamic(step))
    assert error_db(fftconvolve(X, h.double().numpy(), axes=1)[:, : X.shape[1]], linear) < -90
    plain = ours(preset, X, lambda step: is_band(step) or is_dynamic(step))
    space, four = (export(preset, name).content for name in ("ir-space", "ir-true-stereo"))
    assert isinstance(space, Tensor) and isinstance(four, Tensor) and four.shape[0] == 4
    after = fftconvolve(plain, space.double().numpy(), axes=1)[:, : X.shape[1]]
    assert error_db(after, ours(preset, X)) < -90
    # Left and right differ: what comes out is that of their mean.
    left, right = X[0], np.roll(X[0], 50)
    paths = [
        fftconvolve(x, h.double().numpy())[: X.shape[1]] for x, h in zip((left, left, right, right), four, strict=True)
    ]
    mean = (left + right) / 2
    expected = np.stack([fftconvolve(mean, h.double().numpy())[: X.shape[1]] for h in space])
    assert error_db(np.stack([paths[0] + paths[2], paths[1] + paths[3]]), expected) < -90


def test_a_chain_that_is_one_parallel_effect_is_not_taken_apart() -> None:
    config = {"effect": "sends", "wide": {"effect": "fdn", "ir_duration": 0.2, "delays": [11, 13]}}
    values = flatten(Knobs(build(config, SR), torch.Generator().manual_seed(0)).requires_grad_(False)())
    values["wide.c"] = torch.full((2, 2), 0.3)
    document = PresetDocument(config, SR, None, values)
    h = export(document, "ir").content
    assert isinstance(h, Tensor)
    expected = ours(document, X)
    assert error_db(fftconvolve(X, h.double().numpy(), axes=1)[:, : X.shape[1]], expected) < -90


def test_camilladsp_runs_the_chain(preset: PresetDocument) -> None:
    made = export(preset, "camilladsp", "v")
    responses = {f"v{end}": h.double().numpy() for end, h in made.files.items()}
    tree = yaml.safe_load(str(made.content))
    compressor = tree["processors"]["comp"]["parameters"]
    assert compressor["attack"] == pytest.approx(float(preset.values["comp.attack"]) / 2200, rel=1e-4)
    assert compressor["factor"] == 4 and compressor["makeup_gain"] == 4
    assert [step["type"] for step in tree["pipeline"]] == [
        "Mixer",
        *["Filter"] * 6,
        "Processor",
        "Mixer",
        *["Filter"] * 2,
    ]
    assert run_camilladsp(str(made.content), np.repeat(X, 2, 0), SR, responses).shape == (2, X.shape[1])
    tree["pipeline"] = [step for step in tree["pipeline"] if step["type"] != "Processor"]
    y = run_camilladsp(yaml.safe_dump(tree), np.repeat(X, 2, 0), SR, responses)
    assert error_db(y, ours(preset, X, lambda step: not is_dynamic(step))) < -90
    assert any("expander" in line for line in made.lacking) and any("lookahead" in line for line in made.lacking)


def test_the_plug_in_for_reaper_is_the_chain_without_its_space(preset: PresetDocument) -> None:
    made = export(preset, "jsfx")
    y, wait = run_jsfx(str(made.content), np.pad(np.repeat(X, 2, 0), ((0, 0), (0, 200))), SR)
    assert wait == 100 and [line.split()[0] for line in made.lacking] == ["sends:"]
    expected = ours(preset, X, lambda step: is_band(step) or is_dynamic(step))
    # At the very end the chain holds its last gain, and the plug-in has met the silence that follows.
    inside = X.shape[1] - wait
    assert error_db(y[:1, wait : wait + inside], expected[:, :inside]) < -80


def lv2_ports(text: str, plugin: str) -> dict[str, float]:
    """The values of the preset of one plug-in."""
    (ports,) = re.findall(rf"lv2:appliesTo <\S+/{plugin}> ;.*?lv2:port (.*?) \.\n", text, re.DOTALL)
    return {name: float(x) for name, x in re.findall(r'lv2:symbol "(\w+)" ; pset:value (\S+) \]', ports)}


def test_lv2_presets_hold_bands_and_dynamics_as_lsp_plugins_take_them(preset: PresetDocument) -> None:
    made = export(preset, "lv2", "v")
    text = str(made.content)
    assert re.findall(r'label "(.*)"', text) == [
        f"voice x {kind}" for kind in ("1 equaliser", "2 expander", "3 compressor")
    ]
    assert list(made.files) == ["-space.wav"]
    bands = lv2_ports(text, "para_equalizer_x32_mono")
    assert (bands["ft_0"], bands["fm_0"], bands["f_0"], bands["ft_5"], bands["ft_6"]) == (1, 6, 350, 2, 0)
    assert bands["g_0"] == pytest.approx(10 ** (5 / 20)) and bands["q_0"] == pytest.approx(1.4)
    dynamics = lv2_ports(text, "compressor_mono")
    assert dynamics["al"] == pytest.approx(10 ** (-26 / 20)) and dynamics["cr"] == pytest.approx(4)
    assert dynamics["at"] == pytest.approx(1.228 * 12 / 2.2) and dynamics["mk"] == pytest.approx(10 ** (4 / 20))
    assert lv2_ports(text, "expander_mono")["er"] == pytest.approx(1 / 0.6)


def test_lv2_thresholds_below_the_lowest_raise_the_detector(preset: PresetDocument) -> None:
    low = replace(preset, values=preset.values | {"comp.exp_threshold": torch.tensor(-67.0)})
    ports = lv2_ports(str(export(low, "lv2").content), "expander_mono")
    assert ports["al"] == pytest.approx(1e-3) and ports["scp"] == pytest.approx(10 ** (7 / 20))
    lower = replace(preset, values=preset.values | {"comp.exp_threshold": torch.tensor(-110.0)})
    made = export(lower, "lv2")
    assert lv2_ports(str(made.content), "expander_mono")["scp"] == pytest.approx(100)
    assert "comp: a threshold of -110.0 dB is -100 dB there, the lowest" in made.lacking


@pytest.mark.skipif(
    not (shutil.which("lv2apply") and Path("/usr/lib/lv2/lsp-plugins.lv2").exists()), reason="needs LSP Plugins"
)
def test_the_equaliser_of_lsp_plugins_is_ours(preset: PresetDocument) -> None:
    text = str(export(without_dynamics(preset), "lv2").content)
    assert error_db(run_lv2(text, X, SR), ours(preset, X, is_band)) < -60


def test_easyeffects_names_the_times_as_lsp_plugins_measure_them(preset: PresetDocument) -> None:
    output = json.loads(str(export(preset, "easyeffects", "v").content))["output"]
    assert output["plugins_order"] == ["equalizer#0", "expander#0", "compressor#0", "convolver#0"]
    # The share of a step that is reached in the time is 1/√2.
    tau = float(preset.values["comp.attack"]) / 2.2
    assert 1 - math.exp(-output["compressor#0"]["attack"] / tau) == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert output["expander#0"]["ratio"] == pytest.approx(1 / 0.6, rel=1e-4)
    assert output["convolver#0"]["kernel-name"] == "v-space"


def test_the_script_for_pedalboard_is_python_whatever_the_preset_is_called(preset: PresetDocument) -> None:
    made = export(preset, "pedalboard", "it's")
    compile(str(made.content), "script", "exec")
    assert "pb.Compressor(-26, 4, " in str(made.content) and list(made.files) == ["-space.wav"]
    script = str(made.content).splitlines()
    assert all(line.startswith("# ") for line in script[:5])


def test_tables_have_every_number_and_its_certainty(preset: PresetDocument) -> None:
    known = {
        "comp.cmp_ratio": {"low": 3.0, "high": 5.0, "word": "found"},
        "peak1.Q": {"low": 1, "high": 3, "word": "bounded"},
    }
    document = PresetDocument(preset.chain, SR, -18.0, preset.values, certainty=known, name="<b>x|y")
    rows = list(csv.DictReader(io.StringIO(str(export(document, "csv").content))))
    assert len(rows) == sum(value.numel() for value in preset.values.values())
    assert next(row for row in rows if row["parameter"] == "comp.cmp_ratio") == {
        **{
            "parameter": "comp.cmp_ratio",
            "value": "4.0",
            "unit": "",
            "low": "3.0",
            "high": "5.0",
            "certainty": "found",
        },
    }
    sheet = str(export(document, "recall").content)
    for line in (
        "# Recall sheet: b x y",
        "| peak1 | peak | 350 Hz | +5.0 dB | 1.40 | Q bounded |",
        "| ratio | 4.00 : 1 | found |",
        "| delay time | 313.7 ms (a quarter note at 191.3 BPM, an eighth at 95.6 BPM) |  |",
        "| direct pan | L10 |  |",
    ):
        assert line in sheet


#: What an effect of this key is given beside its key.
INSIDE = {"fdn": {"ir_duration": 0.5}, "parallel": {"comp": {"effect": "compressor"}}}


@pytest.mark.parametrize("to", [to for to, one in EXPORTERS.items() if one.suffix != ".wav"])
def test_every_effect_is_exported_or_told(to: str) -> None:
    for key in [key for key in EFFECTS if key not in ("serial", "sends")]:
        # A width takes stereo, which a panning makes.
        before = {"pan": {"effect": "panning"}} if key == "stereo_width" else {}
        config = before | {"one": {"effect": key} | INSIDE.get(key, {})}
        chain = build(config, SR)
        document = PresetDocument(config, SR, -18.0, flatten(Knobs(chain).requires_grad_(False)()))
        made = export(document, to)
        there = ("one", "Filter 1: ", "band0", '"f_0"', "slider1:", "space", "gain: -0.0")
        has_it = any(word in str(made.content) for word in there)
        assert has_it or any(line.startswith("one") for line in made.lacking), (key, made)


def test_the_program_writes_files_and_tells_what_is_lacking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [str(Path(__file__).parents[1] / "presets" / "own"), "--row", "2"]
    assert program.main([*own, "--to", "equalizer-apo", "--set", "peak1.gain=3dB", "--amount", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert "Gain 3 dB" in out and "lacking: comp (compressor_expander): not in this export" in err
    target = tmp_path / "new.json"
    assert program.main([*own, "--to", "json", "--output", str(target), "--set", "comp.makeup=2"]) == 0
    changed = read_document(target)
    assert (
        float(changed.values["comp.makeup"]) == 2 and "comp.makeup" not in changed.raws and "peak1.gain" in changed.raws
    )
    for argv, message in [
        ([*own, "--to", "ir"], "--to ir writes audio: give --output NAME.wav"),
        ([*own, "--to", "rew", "--output", str(tmp_path / "a.wav")], "--to rew writes a .txt file"),
        ([*own, "--to", "nothing"], "invalid choice: 'nothing'"),
        ([str(tmp_path / "none"), "--to", "rew"], "is no preset; give a preset.json, a run folder or"),
        ([str(target), "--to", "json", "--output", str(target)], "is an input"),
        ([own[0], "--row", "99", "--to", "rew"], "has rows 0 to 19"),
    ]:
        capsys.readouterr()
        assert program.main(argv) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
