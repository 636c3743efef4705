"""Style transfer: embeddings, level statistics, both methods, and the program on small sets."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.data.audio import loudness, read_audio, write_audio
from reknob.formats.preset_document import read_document
from reknob.formats.presets import Preset, write_presets
from reknob.runtime.errors import UsageError
from reknob.transfer import embeddings
from reknob.transfer.levels import band_power, style_statistics
from reknob.transfer.published import nearest_in_parameters, optimise, style_distance
from reknob.transfer.search import regress, search
from reknob.transfer.space import PresetSpace, Renderer, at_level
from reknob.transfer.task import Transfer, TransferOptions, active_passage, load_candidates
from scripts import transfer as program

SR = 16000
CONFIG = {
    "low_shelf": {"effect": "low_shelf"},
    "high_shelf": {"effect": "high_shelf", "freq": {"default": 2500, "range": [750, 7000]}},
    "pan": {"effect": "panning"},
}


def voice(seconds: float, seed: int) -> Tensor:
    """Noise bursts with the spectrum and the rhythm of syllables, (1, T)."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * SR)) / SR
    noise = torch.randn(len(t), generator=generator)
    envelope = 0.02 + torch.sin(2 * math.pi * (2.5 * t + torch.rand(1, generator=generator))).clamp(min=0) ** 2
    return (0.1 * envelope * (noise + torch.sin(2 * math.pi * 220 * t)))[None]


@pytest.fixture(scope="module")
def chain() -> Effect:
    return build(CONFIG, SR).eval()


@pytest.fixture(scope="module")
def presets(chain: Effect) -> list[Preset]:
    made = []
    for i in range(12):
        generator = torch.Generator().manual_seed(i)
        raws = {k: v + 2.5 * torch.randn(v.shape, generator=generator) for k, v in Knobs(chain).state_dict().items()}
        made.append(Preset(i, f"song{i}/dry.wav", f"song{i}/wet.wav", 0, raws))
    return made


def test_embeddings_do_not_depend_on_the_batch_and_the_door_takes_others() -> None:
    x = torch.stack([voice(1.5, i).expand(2, -1) * torch.tensor([[1.0], [0.3]]) for i in range(2)])
    for name, size in (("mfcc", 100), ("mir", 24)):
        both = embeddings.EMBEDDINGS[name](x, SR)
        assert both.shape == (2, 2, size)
        torch.testing.assert_close(both[1:], embeddings.EMBEDDINGS[name](x[1:], SR), rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="exists already"):
        embeddings.register("mfcc", embeddings.mir)
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    assert embeddings.angles(a, a[:1]).tolist() == pytest.approx([0, math.pi / 4, 0], abs=1e-5)


def test_mfcc_equal_those_of_torchaudio() -> None:
    transforms = pytest.importorskip("torchaudio.transforms")
    x = voice(1.0, 3).expand(1, 2, -1) * torch.tensor([[1.0], [0.01]])  # the weaker has levels below the range
    options = {"n_fft": 2048, "hop_length": 1024, "n_mels": 128, "center": False}
    theirs = transforms.MFCC(SR, 25, melkwargs=options)(x)[0]
    ours = embeddings.mfcc(x, SR)[0].unflatten(1, (25, 4))
    torch.testing.assert_close(ours[..., 0], theirs.mean(-1), rtol=1e-3, atol=0.05)
    torch.testing.assert_close(ours[..., 1], theirs.std(-1, correction=0), rtol=1e-3, atol=0.05)
    skew = torch.from_numpy(scipy.stats.skew(theirs.double().numpy(), axis=-1)).float()
    kurtosis = torch.from_numpy(scipy.stats.kurtosis(theirs.double().numpy(), axis=-1)).float()
    torch.testing.assert_close(ours[0, :, 2:], torch.stack([skew, kurtosis], -1)[0], rtol=1e-2, atol=1e-2)


def test_style_ignores_gain_and_follows_width_and_compression_more_than_an_equaliser() -> None:
    y = voice(3.0, 0) + torch.tensor([[0.3], [-0.3]]) * voice(3.0, 1)
    y = 0.1 * y / y.std()

    def moved(other: Tensor) -> float:
        styles = [style_statistics(band_power(each[None], SR)) for each in (other, y)]
        return float((styles[0] - styles[1]).norm())

    spectrum = torch.fft.rfft(y)
    spectrum[..., torch.fft.rfftfreq(y.shape[-1], 1 / SR) > 3000] *= 2
    brighter = moved(torch.fft.irfft(spectrum, y.shape[-1]))
    assert moved(1.5 * y) < 0.1 < 0.5 < brighter < 1.5
    assert moved(y + 0.3 * (y - y.flip(0))) > 2
    assert moved(0.1 * (50 * y).tanh()) > 2
    with pytest.raises(UsageError, match=r"need 2\.5 s"):
        band_power(y[None, :, :SR], SR)


def test_regression_moves_towards_the_style_and_not_beyond_the_presets() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, axes = torch.randn(40, 3, generator=generator), torch.randn(3, 20, generator=generator)
    styles, truth = rows @ axes, torch.tensor([0.8, -0.4, 0.3])
    found = regress(rows, styles, truth @ axes)
    assert (found - truth).norm() < 0.6 * (rows.mean(0) - truth).norm()
    assert regress(rows, styles, 1000 * truth @ axes).abs().max() < 2
    torch.testing.assert_close(regress(rows, styles, styles.mean(0)), rows.mean(0))


def test_rows_give_the_values_and_the_audio_of_their_presets(chain: Effect, presets: list[Preset]) -> None:
    space = PresetSpace(chain)
    dry = voice(3.0, 0)
    y = Renderer(space, dry)(space.rows(presets[:2]))
    dry = at_level(dry, SR)[None]
    for got, preset in zip(y, presets, strict=False):
        torch.testing.assert_close(got, chain(dry, **preset.values(chain))[0], rtol=1e-3, atol=1e-5)


def test_both_methods_find_settings_nearer_than_where_they_start(chain: Effect, presets: list[Preset]) -> None:
    space = PresetSpace(chain)
    rows = space.rows(presets)
    raw, other = voice(3.0, 0), voice(3.0, 7)
    truth, rows = rows[0], rows[1:]
    renderer = Renderer(space, raw)
    reference = Renderer(space, other).at_level(truth[None])[0]
    wanted = renderer.at_level(truth[None])

    def miss(row: Tensor) -> float:
        return float((renderer.at_level(row[None]) - wanted).norm())

    found = search(renderer, reference, rows)
    mean = rows.mean(0)[None]
    assert miss(found) < 0.9 * miss(mean[0])
    distance = style_distance(embeddings.mfcc, reference, SR)
    best, lowest = optimise(renderer, lambda _, y: distance(y), mean, steps=5, rate=0.2)
    assert lowest[0] < distance(renderer(mean))[0]
    torch.testing.assert_close(distance(renderer(best)), lowest, rtol=1e-2, atol=1e-2)
    assert nearest_in_parameters(rows, rows[3] + 0.01) == 3


def test_the_active_passage_is_where_somebody_sings() -> None:
    x = torch.cat([1e-4 * torch.randn(1, 3 * SR), voice(4.0, 0), 1e-4 * torch.randn(1, 3 * SR)], 1)
    start = (x == active_passage(x, SR, 3.0)[0, 0]).nonzero()[0, 1].item() / SR
    assert 2.9 <= start <= 4.2
    with pytest.raises(UsageError, match="is silent"):
        active_passage(torch.zeros(1, 5 * SR), SR, 3.0)


def test_a_transfer_refuses_what_it_cannot_use(chain: Effect, presets: list[Preset]) -> None:
    with pytest.raises(UsageError, match="two or more"):
        Transfer(CONFIG, chain, presets[:1], TransferOptions())
    with pytest.raises(UsageError, match="unknown method"):
        TransferOptions("nope")
    with pytest.raises(UsageError, match="the raw recording has 1.0 s"):
        Transfer(CONFIG, chain, presets, TransferOptions())(voice(1.0, 0), voice(3.0, 0))


def test_pairs_of_folders_have_folders_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raws, references = tmp_path / "raws", tmp_path / "references"
    for path in (raws / "a.wav", raws / "b.m4a", references / "a.wav", references / "c" / "b.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert program.find_pairs(raws, references) == [(raws / "a.wav", references / "a.wav")]
    assert f"{raws / 'b.m4a'}: left out" in caplog.text
    (raws / "a.flac").touch()
    with pytest.raises(UsageError, match="a_like_a: would be of .*a.flac and .*a.wav"):
        program.folders_of(tmp_path, program.find_pairs(raws, references))
    with pytest.raises(UsageError, match="a.wav is no folder"):
        program.folders_of(raws / "a.wav", [(raws / "b.m4a", references / "a.wav")])


def test_a_signal_ends_the_program_after_its_pair(
    tmp_path: Path, chain: Effect, presets: list[Preset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> program.Done:
        signal.raise_signal(signal.SIGINT)
        return program.Done(str(arguments[4]), 0.0)

    monkeypatch.setattr(program, "transfer_one", stopped)
    write_presets(tmp_path / "set", presets, chain, chain=CONFIG, rejected={})
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    argv = [str(tmp_path), str(tmp_path / "a.wav"), "--prior", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    assert program.main(argv) == 130


def test_the_program_writes_documents_and_audio_and_leaves_out_what_is_done(
    tmp_path: Path, chain: Effect, presets: list[Preset], capsys: pytest.CaptureFixture[str]
) -> None:
    write_presets(tmp_path / "set", presets, chain, chain=CONFIG, rejected={})
    (tmp_path / "raws").mkdir()
    for name, x in (("a", voice(3.0, 1)), ("b", voice(0.5, 2))):
        write_audio(tmp_path / "raws" / f"{name}.wav", x, SR)
    write_audio(tmp_path / "like.wav", voice(3.0, 3).expand(2, -1), SR)
    line = [str(tmp_path / "raws"), str(tmp_path / "like.wav"), "--prior", str(tmp_path / "set"), "--steps", "1"]
    line += ["--out", str(tmp_path / "out")]
    # The second recording is too short, which does not stop the first.
    assert program.main([*line, "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["failed"] == [str(tmp_path / "raws" / "b.wav")]
    assert "needs 2.5 s or more" in shown.err
    folder = tmp_path / "out" / "a_like_like"
    document = read_document(folder / "preset.json")
    assert document.provenance["inputs"]["reference"]["file"] == "like.wav"
    assert document.provenance["prior"] == "set"
    y, sr = read_audio(folder / "output.wav")
    assert loudness(y, sr) == pytest.approx(loudness(read_audio(tmp_path / "like.wav")[0], SR), abs=0.1)
    before = (folder / "preset.json").stat().st_mtime_ns
    for method in ("published", "mean", "nearest"):
        assert program.main([*line, "--method", method, "--exclude", "0-3"]) == 2
    assert (folder / "preset.json").stat().st_mtime_ns == before
    again = ["--method", "nearest", "--overwrite", "--report"]
    assert program.main([str(tmp_path / "raws" / "a.wav"), *line[1:], *again]) == 0
    assert (folder / "preset.json").stat().st_mtime_ns > before
    page = (folder / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [track["label"] for track in data["tracks"]][:3] == data["names"] == ["raw", "output", "reference"]
    assert data["curves"]["equaliser"]["bands"][0]["name"] == "low shelf"
    assert "difference" not in data["curves"] and "matters" not in data and not data["findings"]
    assert data["about"]["figures"] == [["set", "presets that the settings are estimated from"]]
    assert ["reference", "like.wav"] in data["about"]["facts"]


def test_candidates_of_several_sets_count_on_and_leave_out_what_is_excluded(
    tmp_path: Path, chain: Effect, presets: list[Preset]
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        write_presets(folder, presets, chain, chain=CONFIG, rejected={})
    np.save(folders[1] / "train_index.npy", [0, 2, 5])
    kept = load_candidates(folders, chain, "1-10,14")
    assert [preset.row for preset in kept] == [0, 11, 12, 17]
    torch.testing.assert_close(kept[3].raws["pan.pan"], presets[5].raws["pan.pan"])
