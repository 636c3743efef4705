"""Plug-ins: one of each kind, by --plugin and by an entry point, in programs and their workers; what is refused."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from takes import SR, mixed, take
from worker_jobs import is_loss

import main
import reknob
import train_analysis_net
from reknob.afx.registry import EFFECTS, build
from reknob.data.audio import read_audio, write_audio
from reknob.data.pair_files import DATASETS
from reknob.data.recordings import RECORDINGS
from reknob.encoders import ENCODERS
from reknob.losses import LOSSES
from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json
from reknob.runtime.workers import map_processes
from scripts import presets, render

ROOT = Path(__file__).parents[1]
PLUGIN = '''
import torch
from torch import nn

import reknob
from reknob.afx.param import Linear, Param
from reknob.afx.stages import overlapping


class Saturation(reknob.Effect):
    params = (Param("drive", "dB", 6.0, Linear(0, 30)),)

    def forward(self, x, *, drive):
        gain = 10 ** (drive.reshape(-1, 1, 1) / 20)
        return torch.tanh(gain * x) / gain

    def stage(self, values):
        return overlapping(self, values)


class MeanSpectrum(nn.Module):
    out_dim = 257

    def __init__(self, sr):
        super().__init__()

    def forward(self, x):
        spectrum = torch.stft(x[:, 0], 512, window=torch.hann_window(512), return_complex=True)
        return spectrum.abs().mean(-1).add(1e-6).log()


def rms_difference(pred, target, floor=1e-3):
    return ((pred - target).square().mean() + floor ** 2).sqrt()


def takes(data_dir):
    return [(path, path.with_name("mix.wav")) for path in sorted(data_dir.glob("take.wav"))]


reknob.register_effect("saturation", Saturation)
reknob.register_loss("rms", rms_difference)
reknob.register_encoder("mean_spectrum", MeanSpectrum)
reknob.register_dataset("takes", takes)
reknob.register_recordings("flat", lambda folder: sorted(folder.glob("*.wav")), "*.wav")
'''
CHAIN = "sat: {effect: saturation, drive: {default: 3}}\npan: {effect: panning}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plug-in, a pair, a chain that names its effect, and an entry point for it elsewhere."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_plugin.py").write_text(PLUGIN)
    (folder / "chain.yaml").write_text(CHAIN)
    (folder / "song").mkdir()
    dry = take(1.5)
    write_audio(folder / "song" / "take.wav", dry, SR)
    write_audio(folder / "song" / "mix.wav", mixed(dry), SR)
    package = folder / "site" / "shared_effects-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shared-effects\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[reknob.plugins]\nmine = shared_effects\n")
    (folder / "site" / "shared_effects.py").write_text(PLUGIN.replace('"rms"', '"shared"'))
    return folder


@pytest.fixture(autouse=True)
def forget() -> Iterator[Callable[[], None]]:
    """The tables, the modules and the path are as they were: after a test, and when this is called."""
    held = [(table, dict(table)) for table in (EFFECTS, LOSSES, ENCODERS, DATASETS, RECORDINGS)]
    path, modules = list(sys.path), set(sys.modules)

    def restore() -> None:
        for table, before in held:
            table.clear()
            table.update(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name.startswith(("my_", "shared_", "ill_")):
                del sys.modules[name]

    yield restore
    restore()


def test_a_fit_and_a_render_take_effect_loss_and_data_set_of_a_plugin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forget: Callable[[], None]
) -> None:
    monkeypatch.chdir(folder)
    sizes = ["chunk_duration=1.4", "chunk_overlap=0.4", "epochs=2", "device=cpu", "check_pair=false"]
    chosen = ["dataset=takes", "data_dir=song", "model=chain.yaml", "loss.name=rms", "loss.options.floor=0.01"]
    assert main.main(["--plugin", "my_plugin", *chosen, *sizes]) == 0
    told = capsys.readouterr().out
    assert "sat" in told and "drive" in told
    forget()
    run_folder = folder / "logs" / "mix" / "run_0"
    losses = read_json(run_folder / "meta.json")["losses"]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert render.main([f"--run={run_folder}", "song/take.wav", "z.wav"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unknown effect 'saturation'" in error
    assert error.endswith("an effect of a plug-in needs --plugin MODULE\n")
    assert render.main(["--plugin=my_plugin", f"--run={run_folder}", "song/take.wav", "y.wav"]) == 0
    assert read_audio(folder / "y.wav")[0].shape == (2, round(1.5 * SR))


def test_a_training_and_its_workers_take_encoder_loss_and_recordings_of_a_plugin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    music = folder / "music"
    music.mkdir()
    for seed in range(3):
        write_audio(music / f"take{seed}.wav", take(2.0, seed), SR)
    sizes = "--seconds=1 --epoch_items=2 --valid_items=2 --test_items=2 --batch_size=2 --workers=1 --epochs=1".split()
    chosen = ["--encoder=mean_spectrum", "--loss=rms", "--data=flat", "--data_dir=music", "--device=cpu"]
    monkeypatch.chdir(folder)
    assert train_analysis_net.main([*chosen, *sizes]) == 2
    assert "invalid choice: 'mean_spectrum'" in capsys.readouterr().err
    assert train_analysis_net.main(["--plugin=my_plugin", *chosen, *sizes]) == 0
    assert (folder / "logs" / "SFX_peq_AFX_peq_ENC_mean_spectrum_LOSS_rms" / "estimator.pt").exists()


def test_an_installed_package_is_found_by_its_entry_point(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(folder / "site"))
    assert main.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert "esr, shared" in " ".join(listed.split())
    assert "takes" in listed and "--plugin MODULE" in listed


def test_worker_processes_load_the_same_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with plugins.loaded(["my_plugin"]):
        assert list(map_processes(is_loss, ["rms", "mel", "none"], 2)) == [True, True, False]
    assert plugins.VARIABLE not in os.environ


def test_importing_the_module_suffices_in_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    __import__("my_plugin")
    chain = build({"sat": {"effect": "saturation"}, "pan": {"effect": "panning"}}, SR)
    y = chain(torch.randn(1, 1, 100), **reknob.Knobs(chain)())
    assert y.shape == (1, 2, 100)
    fit = reknob.fit(
        folder / "song" / "take.wav", folder / "song" / "mix.wav", steps=1, model=None, device="cpu", check_pair=False,
        chain={"sat": {"effect": "saturation"}, "pan": {"effect": "panning"}}, chunk_duration=1.4, chunk_overlap=0.4,
        loss="rms",
    )  # fmt: skip
    assert len(fit.losses) == 1


def test_a_key_that_is_taken_and_what_is_no_entry_are_refused() -> None:
    refused = [
        ("effect 'peak' is registered already", lambda: reknob.register_effect("peak", reknob.Effect)),
        ("loss 'mel' is registered already", lambda: reknob.register_loss("mel", torch.nn.L1Loss)),
        ("data set 'pair' is registered already", lambda: reknob.register_dataset("pair", list)),
        ("loss 'my loss': give a key of letters", lambda: reknob.register_loss("my loss", torch.nn.L1Loss)),
        ("effect 'x': .*L1Loss.* is no subclass of reknob", lambda: reknob.register_effect("x", torch.nn.L1Loss)),
        ("encoder 'x': 3 is no subclass of torch.nn.Module", lambda: reknob.register_encoder("x", 3)),
        ("loss 'x': 3 cannot be called", lambda: reknob.register_loss("x", 3)),
        ("data set 'x' takes wav: give some of data_dir", lambda: reknob.register_dataset("x", list, ("wav",))),
    ]
    for message, call in refused:
        with pytest.raises(UsageError, match=message):
            call()
    reknob.register_loss("l1", torch.nn.L1Loss)
    reknob.register_loss("l1", torch.nn.L1Loss)  # the same once more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all' ("),
        ("1 / 0", "ZeroDivisionError: division by zero ("),
        ("def (", "SyntaxError: invalid syntax (ill_plugin.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 ("),
        ("import reknob\nreknob.register_loss('mel', print)", "loss 'mel' is registered already; give yours another"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, text: str, message: str
) -> None:
    (tmp_path / "ill_plugin.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main.main(["--plugin", "ill_plugin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: --plugin ill_plugin cannot be imported: ") and error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugin"], "--plugin: the name of a module is missing; give --plugin my_module"),
        (["--plugin="], "--plugin: the name of a module is missing; give --plugin my_module"),
        (["--plugin", "--help"], "--plugin: the name of a module is missing; give --plugin my_module"),
        (["--plugin=../x.py"], "--plugin ../x.py: is no module's name; give --plugin my_module for my_module.py"),
        (["--plugin=ill_x"], "--plugin ill_x cannot be imported: ModuleNotFoundError: No module named 'ill_x'"),
    ],
)
def test_a_plugin_that_is_no_module_is_refused(
    capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main.main(arguments) == 2
    assert capsys.readouterr().err == f"main.py: {message}\n"


def test_programs_mention_plugins_in_their_help_and_refuse_an_abbreviation(capsys: pytest.CaptureFixture) -> None:
    for program, arguments in ((main, []), (presets, []), (presets, ["list"])):
        assert program.main([*arguments, "--help"]) == 0
        assert capsys.readouterr().out.count("--plugin MODULE  ") == 1
    assert presets.main(["list", "--plug", "x", str(ROOT / "presets" / "own")]) == 2
    assert "write --plugin x in full" in capsys.readouterr().err


def test_a_module_of_the_current_folder_precedes_one_of_the_project_and_of_libraries_only_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_fitting").mkdir()
    (tmp_path / "my_fitting" / "__init__.py").write_text("from my_fitting import part\n")
    (tmp_path / "my_fitting" / "part.py").write_text("import sys\nPATH = list(sys.path)\n")
    monkeypatch.chdir(tmp_path)
    with plugins.loaded(["my_fitting"]):
        assert sys.modules["my_fitting.part"].PATH[0] == str(tmp_path)
        assert sys.path[0] != str(tmp_path) and sys.path[-1] == str(tmp_path)
