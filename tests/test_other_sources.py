"""What chains for other sources are made of: the soft-knee compressor, parallel effects, their chain files, the
error-to-signal ratio, and the benchmark on pairs of compressors.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from takes import SMALL, SR, take, write_pair
from torch import Tensor

import main
import reknob
from benchmarks import compressors
from reknob.afx.compressor import SoftKneeCompressor, reduction
from reknob.afx.effect import Effect, Knobs, Values
from reknob.afx.registry import build
from reknob.data.audio import read_audio, write_audio
from reknob.fitting.settings import CHAINS
from reknob.losses import ErrorToSignal
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json
from scripts import render

SOURCES = ("bass", "compressor", "drums", "guitar", "master")
BUS = {"effect": "parallel", "comp": {"effect": "compressor", "threshold": {"default": -50.0}}}
SHORT = ["chain.sends.delay.ir_duration=2", "chain.sends.reverb.ir_duration=1"]


def opened(config: dict) -> tuple[Effect, Values]:
    effect = build(config, SR).eval()
    return effect, Knobs(effect).requires_grad_(False)()


@pytest.mark.parametrize("peak_db", [-40.0, -24.0, -6.0])
def test_a_stationary_sine_gets_the_gain_of_the_curve(peak_db: float) -> None:
    effect = SoftKneeCompressor(SR, ratio={"default": 4.0}, knee={"default": 12.0}, makeup={"default": 2.0})
    values = Knobs(effect).requires_grad_(False)()
    t = torch.arange(SR, dtype=torch.float64) / SR
    x = (10 ** (peak_db / 20) * torch.sin(2 * torch.pi * 1000 * t))[None, None]
    end = slice(-SR // 10, None)
    gain = 10 * torch.log10(effect(x, **values)[..., end].square().mean() / x[..., end].square().mean())
    (curve,) = effect.curves(values)
    assert gain.item() == pytest.approx(np.interp(peak_db - 3.01, curve.x, curve.y), abs=0.05)


def test_the_knee_is_that_of_the_parabola_at_the_threshold_and_a_corner_at_0_db() -> None:
    level = torch.tensor([-60.0, -30.0, -10.0])
    soft, hard = (reduction(level, torch.tensor(-30.0), torch.tensor(4.0), torch.tensor(knee)) for knee in (12.0, 0.0))
    assert soft[1].item() == pytest.approx(0.75 * 12 / 8, abs=1e-5)
    assert hard.tolist() == pytest.approx([0, 0, 15], abs=0.02)


def test_both_channels_get_one_gain() -> None:
    effect, values = opened({"effect": "compressor", "threshold": {"default": -40.0}})
    x = take(0.5)[None].repeat(1, 2, 1) * torch.tensor([1.0, 0.1])[:, None]
    y = effect(x, **values)
    assert torch.allclose(y[:, 0], 10 * y[:, 1], rtol=1e-4, atol=1e-7)


def test_a_mix_lies_between_the_input_and_the_effects() -> None:
    effect, values = opened(BUS)
    inner = build(BUS["comp"], SR)
    x = take(0.3)[None]
    wet = inner(x, **values["comp"])
    for mix in (0.0, 0.3, 1.0):
        y = effect(x, **values | {"mix": torch.tensor(mix)})
        assert torch.allclose(y, (1 - mix) * x + mix * wet, atol=1e-7)
    assert not torch.allclose(wet, x, atol=1e-3)


def test_a_mono_input_counts_in_both_channels_of_stereo_effects() -> None:
    effect, values = opened({"effect": "parallel", "pan": {"effect": "panning", "pan": {"default": 0.2}}})
    assert effect.channels(1) == 2
    x = take(0.1)[None]
    gains = (effect(x, **values) / x).nan_to_num()[0, :, 100]
    expected = [0.5 + 0.5 * math.sqrt(2) * f(0.2 * math.pi / 2) for f in (math.cos, math.sin)]
    assert gains.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bus": {"effect": "parallel"}}, "chain.bus: an empty chain"),
        ({"effect": "parallel", "mix": {"effect": "peak"}}, "chain: an effect cannot be called 'mix'"),
        ({"bus": {**BUS, "mix": {"default": 1.0}}}, "mix: the default 1.0 lies outside its range"),
    ],
)
def test_a_wrong_parallel_configuration_is_refused(config: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(config, SR)


@pytest.mark.parametrize("model", SOURCES)
def test_a_chain_of_another_source_fits(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sends = "sends:" in (CHAINS / f"{model}.yaml").read_text()
    short = [option for option in SHORT if sends and ("delay" not in option or model == "guitar")]
    losses = main.main([*write_pair(tmp_path), *SMALL, *short, f"model={model}", "loss.name=esr", "start=defaults"])
    assert losses == 0, capsys.readouterr().out


def stereo_pair(folder: Path, chain: str) -> list[str]:
    """Two channels that differ, and what a compressor makes of both; the arguments of a fit."""
    dry = torch.cat([take(2.0, 0), 0.3 * take(2.0, 1)])
    wet = build({"effect": "compressor", "threshold": {"default": -40.0}}, SR)
    with torch.no_grad():
        wet = wet(dry[None], **Knobs(wet)())[0]
    return [*write_pair(folder, dry, wet), *SMALL, f"chain={chain}", "model=null", "lufs=null", "loss.name=esr"]


def test_a_stereo_dry_is_fitted_and_rendered_in_stereo(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    chain = "{comp: {effect: compressor, threshold: {default: -40}}}"
    assert main.main([*stereo_pair(tmp_path, chain), "stereo_dry=true"]) == 0, capsys.readouterr()
    (run,) = (tmp_path / "logs").glob("*/run_0")
    # The chain of the pair, with the values of the pair: nothing is left to fit.
    assert min(read_json(run / "meta.json")["losses"]) < 1e-6
    levels = ["--loudness=off", "--output-loudness=chain", "--tail=0"]
    argv = ["--run", str(run), *levels, str(tmp_path / "take.wav"), str(tmp_path / "out.wav")]
    assert render.main([*argv, "--stereo"]) == 0
    rendered, wet = (read_audio(tmp_path / name)[0] for name in ("out.wav", "song.wav"))
    assert (rendered - wet).abs().max() < 1e-3
    processor = reknob.load_run(run)
    assert (processor.render(read_audio(tmp_path / "take.wav")[0], SR, lufs=None, stereo=True) - wet).abs().max() < 1e-3
    with pytest.raises(UsageError, match="Sends takes mono"):
        reknob.load_preset(Path("presets/own")).render(wet, SR, stereo=True)


@pytest.mark.parametrize(
    ("chain", "stereo", "message"),
    [
        ("{sends: {effect: sends, pan: {effect: panning}}}", "true", "chain.sends: Sends takes mono"),
        ("{comp: {effect: compressor}}", "false", "the chain ends in 1 channel"),
    ],
)
def test_a_chain_that_does_not_take_the_channels_of_dry_is_refused(
    chain: str, stereo: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main.main([*stereo_pair(tmp_path, chain), f"stereo_dry={stereo}"]) == 2
    assert message in capsys.readouterr().err


def esr(pred: Tensor, target: Tensor) -> float:
    return ((pred - target).square().sum() / target.square().sum()).item()


def test_the_error_to_signal_ratio_is_that_of_its_formula() -> None:
    target, pred = (take(0.2, seed)[None].expand(2, 2, -1) for seed in (0, 1))
    assert ErrorToSignal()(pred, target).item() == pytest.approx(esr(pred, target), rel=1e-5)
    best = ErrorToSignal(best_gain=True)
    gains = torch.linspace(-2, 2, 4001)
    least = min(esr(g * pred, target) for g in gains[::40])
    assert best(-3 * pred, target).item() == pytest.approx(best(pred, target).item(), rel=1e-5)
    assert best(pred, target).item() <= least + 1e-4
    assert best(2 * target, target).item() < 1e-9
    silence = torch.zeros(1, 2, 100).requires_grad_()
    assert torch.autograd.grad(ErrorToSignal()(silence, silence.detach()), silence)[0].isfinite().all()


def test_several_tracks_get_the_ratios_that_they_get_alone() -> None:
    loss, target, pred = ErrorToSignal(), torch.rand(4, 2, 50), torch.rand(4, 2, 50)
    shares = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    both = loss.terms(pred, loss.prepare(target), shares)
    alone = [esr(pred[:2], target[:2]), esr(pred[2:3], target[2:3])]
    assert both.flatten().tolist() == pytest.approx(alone, rel=1e-5)


def test_pairs_of_a_compressor_are_reproduced_and_tabled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    effect, values = opened({"effect": "compressor", "threshold": {"default": -33.01}, "ratio": {"default": 3.0}})
    t = torch.arange(2 * SR) / SR
    dry = (0.5 * t / 2 * torch.sin(2 * torch.pi * 440 * t))[None]
    write_audio(tmp_path / "comp_-30db_3to1_dry.wav", dry, SR)
    write_audio(tmp_path / "comp_-30db_3to1_wet.wav", effect(dry[None], **values)[0], SR)
    assert compressors.main([str(tmp_path), "--steps", "5", "--json", str(tmp_path / "scores.json")]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "comp_-30db_3to1" and float(row[4]) < 0.02
    threshold, known_threshold, ratio, known_ratio = map(float, row[5:9])
    assert (known_threshold, known_ratio) == (-30, 3)
    assert threshold == pytest.approx(-30, abs=1) and ratio == pytest.approx(3, rel=0.1)
