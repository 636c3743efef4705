"""Generated pairs: the same on every call, each a voice, its mix and its parameters; the script that makes presets."""

import subprocess
from pathlib import Path

import pytest
import torch

from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, read_audio
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import load_pair
from reknob.formats.as_document import open_preset
from scripts import make_pairs

ROOT = Path(__file__).parents[1]


def pairs(folder: Path) -> dict[str, torch.Tensor]:
    chain = str(ROOT / "cfg" / "model" / "eq_comp.yaml")
    assert make_pairs.main([str(folder), "--count", "2", "--seconds", "3", "--fx-config", chain]) == 0
    return {str(path.relative_to(folder)): read_audio(path)[0] for path in sorted(folder.rglob("*.flac"))}


def test_pairs_are_the_same_every_time_and_each_a_voice_and_its_mix(tmp_path: Path) -> None:
    first, second = pairs(tmp_path / "a"), pairs(tmp_path / "b")
    assert list(first) == [f"voice_0{n}/{side}.flac" for n in (0, 1) for side in ("dry", "wet")]
    assert all(torch.equal(first[name], second[name]) for name in first)
    for n in (0, 1):
        folder = tmp_path / "a" / f"voice_0{n}"
        pair = load_pair(PairFiles(folder / "dry.flac", folder / "wet.flac", "voice"), 44100, -18.0, check=True)
        assert (pair.dry - pair.wet.mean(0)).abs().max() > 0.01
        document = open_preset(folder / "preset.json")
        wet = render(document.effect, document.tensors(), pair.dry)[:, : pair.wet.shape[-1]]
        assert (normalise_loudness(wet, 44100, -18.0) - pair.wet).abs().max() < 1e-3  # a pair's loudness is normalised


def test_existing_pairs_are_replaced_when_asked_only_and_refused_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voice_01").mkdir()
    (tmp_path / "voice_01" / "wet.flac").touch()
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(make_pairs, "generate_tracks", lambda *_, **__: pytest.fail("began to work"))
        assert make_pairs.main([str(tmp_path), "--count", "2"]) == 2
        assert "voice_01/wet.flac: exists; give another name, or --overwrite" in capsys.readouterr().err
        assert make_pairs.main([str(tmp_path / "file"), "--count", "2"]) == 2
        assert f"{tmp_path / 'file'} is no folder; choose another" in capsys.readouterr().err
    chain = str(ROOT / "cfg" / "model" / "eq_comp.yaml")
    argv = [str(tmp_path), "--count", "2", "--seconds", "1", "--fx-config", chain]
    assert make_pairs.main([*argv, "--overwrite"]) == 0
    assert "2 pairs of 1 s" in capsys.readouterr().out and (tmp_path / "voice_01" / "wet.flac").stat().st_size


def test_the_script_that_makes_the_presets_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "make_presets.sh")], check=True)
