"""The package: what a wheel holds, and the public API from another folder, as an installed package gives it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from takes import mixed, take

import reknob
from reknob.cli import COMMANDS
from reknob.cli import main as console
from reknob.data.audio import write_audio
from reknob.runtime.errors import UsageError

ROOT = Path(__file__).parents[1]
SR = 44100
EXAMPLE = """
import sys, time
began = time.perf_counter()
import reknob
print("seconds", time.perf_counter() - began)
assert "torch" not in sys.modules
preset = reknob.load_preset(sys.argv[1], row=0)
import torch
assert preset.render(torch.randn(SR := 44100), SR).shape == (2, SR)
print(reknob.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(ROOT), *options, "-w", str(folder)], check=True)
    return next(folder.glob("reknob-*.whl"))


def test_a_wheel_holds_one_package_with_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"reknob", f"reknob-{reknob.__version__}.dist-info"}
    for needed in ("afx/kernels/numba_cpu/fdn.py", "afx/weights/proxy.pt", "cfg/model/diffvox.yaml", "main.py"):
        assert f"reknob/{needed}" in names
    assert {"reknob/checkpoints/peq.pt", "reknob/presets/own/raw_params.npy", "reknob/data/demo/dry.flac"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]


def test_a_wheel_works_from_another_folder_and_a_place_that_cannot_be_written(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-c", EXAMPLE, str(place / "reknob" / "presets" / "own")]
    # The kernels that this clone has compiled are the same.
    loops = ROOT / "afx" / "kernels" / "numba_cpu" / "__pycache__"
    environment = {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(loops)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert str(place) in run.stdout


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "dry.wav", tmp_path / "wet.wav"
    dry = take(1.4)
    for path, x in zip(paths, (dry, mixed(dry)), strict=True):
        write_audio(path, x, SR)
    return paths


def test_a_fit_gives_plain_numbers_renders_and_can_be_saved(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    fit = reknob.fit(
        *pair,
        steps=3,
        model="eq_comp",
        chain={"pan": {"effect": "panning"}},
        chunk_duration=1.4,
        chunk_overlap=0.2,
        device="cpu",
        on_step=lambda step, terms: seen.append((step, terms["loss"])),
    )
    assert [step for step, _ in seen] == [1, 2, 3] and fit.losses == [loss for _, loss in seen]
    assert fit.loss == min(fit.losses) and fit.effects is None
    assert isinstance(fit.values["comp"]["attack"], float)
    assert fit.render(np.random.default_rng(0).normal(size=SR).astype(np.float32), SR).shape == (2, SR)
    folder = fit.save(tmp_path / "voice")
    again = reknob.load_run(folder)
    assert again.values["comp"]["attack"] == pytest.approx(fit.values["comp"]["attack"], rel=1e-5)
    assert capsys.readouterr().out == ""


def test_a_fit_stops_when_asked(pair: tuple[Path, Path]) -> None:
    fit = reknob.fit(
        *pair, steps=50, model="eq_comp", chain={"pan": {"effect": "panning"}}, chunk_duration=1.2, chunk_overlap=0.2,
        device="cpu", stopped=lambda: True,
    )  # fmt: skip
    assert fit.losses == []


def test_mistakes_are_usage_errors(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting 'modell'; known: dataset"):
        reknob.fit(*pair, modell="eq_comp")
    with pytest.raises(UsageError, match="unknown chain 'eq'; known: comphalf, dist, peq"):
        reknob.estimate(pair[1], chain="eq")
    with pytest.raises(UsageError, match="cannot be read|does not exist|no such file"):
        reknob.load_preset(tmp_path / "nothing")


def test_an_estimate_has_values_intervals_and_units(pair: tuple[Path, Path]) -> None:
    estimate = reknob.estimate(pair[1], chain="comphalf")
    assert estimate.units["comp.threshold"] == "dB" and -40 <= estimate.values["comp.threshold"] <= 0
    interval = estimate.intervals["comp.threshold"]
    assert interval is not None and -40 <= interval[0] < interval[1] <= 0  # calibrated, so that one window has one too


def test_the_loss_of_the_vocal_fit_alone_has_a_gradient() -> None:
    x = torch.randn(1, 2, 8192, requires_grad=True)
    reknob.losses.MSS(sr=SR)(x, torch.randn(1, 2, 8192)).backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_the_console_command_lists_its_commands_and_runs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert console([]) == 0 and console(["--version"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS) and reknob.__version__ in listed
    assert console(["presets", "list", str(ROOT / "presets" / "own")]) == 0
    assert console(["rendr"]) == 2
    assert "did you mean render?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_console_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console([command, "--help"]) == 0
    assert capsys.readouterr().out
