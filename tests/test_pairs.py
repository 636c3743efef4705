"""Pairs: which files of a data set belong together, and how two files become an aligned, checked pair."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from reknob.data.align import gcc_phat_peak, level_percentile, measure_alignment
from reknob.data.audio import loudness, write_audio
from reknob.data.pair_files import DEMO, PairFiles, PairListing, find_pairs, vocal_stems
from reknob.data.pairs import load_pair

SHARED = Path(__file__).parent.parent.parent / "shared"
GOLDEN = Path(__file__).parent / "golden" / "diffvox" / "find_time_offset.npz"
SR = 44100


def take(seconds: float = 2.0, sr: int = SR, seed: int = 0) -> torch.Tensor:
    """A dry take (1, T): noise that comes and goes, over a floor 60 dB down."""
    rng = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * sr)) / sr
    phrases = (torch.sin(2 * torch.pi * 1.5 * t) > 0).float()
    return (0.1 * torch.randn(len(t), generator=rng) * (phrases + 0.001))[None]


def mix(dry: torch.Tensor, sr: int = SR, delay: int = 0) -> torch.Tensor:
    """Its mix (2, T): `delay` samples late, with echoes on either side."""
    direct = dry[0].roll(delay)
    return torch.stack([direct + 0.4 * direct.roll(round(side * sr)) for side in (0.17, 0.3)])


def write_pair(folder: Path, dry: torch.Tensor, wet: torch.Tensor, sr: int = SR) -> PairFiles:
    write_audio(folder / "dry.wav", dry, sr)
    write_audio(folder / "wet.wav", wet, sr)
    return PairFiles(folder / "dry.wav", folder / "wet.wav", "song")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_lag_is_right_for_every_golden_row_negative_ones_included() -> None:
    golden = np.load(GOLDEN)
    padded = np.concatenate([np.zeros(2000), golden["base"], np.zeros(3000)])
    for n, m, true, _ in golden["rows_N_M_true_found"]:
        x, y = padded[2000 : 2000 + n], padded[2000 - true : 2000 - true + m]
        alignment = measure_alignment(torch.from_numpy(x)[None], torch.from_numpy(y)[None], SR)
        assert alignment.lag_samples == pytest.approx(true, abs=0.01) and alignment.polarity == (1,), (n, m, true)


def test_the_whitened_correlation_separates_a_filtered_echoing_copy_from_another_recording() -> None:
    dry = take(13.0)
    assert gcc_phat_peak(dry, 0.2 * dry.roll(-500), SR) == pytest.approx(1.0, abs=0.05)
    assert gcc_phat_peak(dry, mix(dry, delay=700), SR) > 0.5
    assert gcc_phat_peak(dry, mix(take(13.0, seed=1)), SR) < 0.03


def test_the_level_percentile_is_that_of_the_quietest_tenth() -> None:
    x = torch.full((1, 44100), 0.5)
    assert level_percentile(x, SR) == pytest.approx(0.0, abs=1e-6)
    x[:, :22050] = 0.0005
    assert level_percentile(x, SR) == pytest.approx(-57.0, abs=0.1)
    x[:, :22050] = 0.0
    assert level_percentile(x, SR) == -100.0


def stem(name: str, instrument: object, raws: int) -> dict:
    raw = {f"R{i:02d}": {"filename": f"{name}_RAW_{i}.wav", "instrument": "x"} for i in range(1, raws + 1)}
    return {"filename": f"{name}.wav", "instrument": instrument, "raw": raw}


def song(stems: dict[str, dict], **changes: object) -> dict:
    return {"instrumental": "no", "raw_dir": "RAW", "stem_dir": "STEMS", "stems": stems} | changes


def test_a_medley_stem_counts_when_it_is_vocal_and_made_from_one_raw_track() -> None:
    stems = {
        "S01": stem("drums", "drum set", 1),
        "S02": stem("lead", "female singer", 1),
        "S03": stem("choir", "vocalists", 4),
        "S04": stem("talk", ["snaps", "Male Speaker"], 1),
        "S05": stem("both", ["male singer", "vocalists"], 2),
        "S06": stem("none", [], 1),
        "S07": stem("nothing", "male rapper", 1),
        "S08": dict(stem("unrecorded", "voice", 0), raw=None),
    }
    found = vocal_stems(song(stems), Path("Band_Song"))
    assert found.files == [
        PairFiles(Path("Band_Song/RAW/lead_RAW_1.wav"), Path("Band_Song/STEMS/lead.wav"), "lead"),
        PairFiles(Path("Band_Song/RAW/talk_RAW_1.wav"), Path("Band_Song/STEMS/talk.wav"), "talk"),
    ]
    assert found.skipped == [
        "Band_Song S03 (vocalists) has 4 raw tracks, not one",
        "Band_Song S05 (male singer, vocalists) has 2 raw tracks, not one",
        "Band_Song S08 (voice) has 0 raw tracks, not one",
    ]


def test_a_medley_song_without_a_pair_says_why() -> None:
    sung = {"S01": stem("lead", "male singer", 1)}
    for yes in ("yes", True):
        assert vocal_stems(song(sung, instrumental=yes), Path("A_B")) == PairListing([], ["A_B is instrumental"])
    played = {"S01": stem("a", "piano", 1), "S02": stem("b", ["flute", "harp"], 1)}
    reason = "A_B has no vocal stem (its instruments: flute, harp, piano)"
    assert vocal_stems(song(played), Path("A_B")) == PairListing([], [reason])
    with pytest.raises(ValueError, match="the metadata of A_B lacks raw_dir, stems"):
        vocal_stems({"stem_dir": "x"}, Path("A_B"))


def test_a_medley_song_folder_is_found_by_its_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Band_Song"
    touch(folder / "Band_Song_METADATA.yaml")
    path = folder / "Band_Song_METADATA.yaml"
    path.write_text(yaml.safe_dump(song({"S01": stem("lead", "male singer", 1)})))
    expected = [PairFiles(folder / "RAW" / "lead_RAW_1.wav", folder / "STEMS" / "lead.wav", "lead")]
    assert find_pairs(data_dir=folder).files == expected
    assert find_pairs("medley_vocal", f"{folder}/").files == expected
    monkeypatch.chdir(folder)
    assert find_pairs(data_dir=".").files == expected
    path.write_text(yaml.safe_dump(song({}, instrumental="yes")))
    with pytest.raises(ValueError, match=r"^no pair found: Band_Song is instrumental$"):
        find_pairs(data_dir=folder)
    path.write_text("stems: [unclosed")
    with pytest.raises(ValueError, match="Band_Song_METADATA.yaml: not a YAML file"):
        find_pairs(data_dir=folder)
    path.rename(folder / "Other_METADATA.yaml")
    with pytest.raises(
        ValueError, match="Band_Song_METADATA.yaml does not exist: dataset medley_vocal takes the folder"
    ):
        find_pairs(data_dir=folder)


def test_the_published_songs_are_found_in_the_real_metadata() -> None:
    paths = sorted((SHARED / "metadata" / "medleydb").glob("*_METADATA.yaml"))
    if not paths:
        pytest.skip("needs ../shared/metadata")
    folders = (SHARED / "metadata" / "medley_vocals_list.txt").read_text().split()
    published = {Path(line).name for line in folders}
    names = [path.name.removesuffix("_METADATA.yaml") for path in paths]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {
        name: vocal_stems(yaml.load(path.read_bytes(), loader), Path(name))  # noqa: S506 - a safe loader
        for name, path in zip(names, paths, strict=True)
    }
    valid = {name for name, song_found in found.items() if song_found.files}
    assert len(published) == 58 and published <= valid
    assert len(valid) == 64  # 62 songs, and 2 whose one vocal stem lists several instruments
    assert all(song_found.skipped for name, song_found in found.items() if name not in valid)


def test_internal_pairs_are_vocals_with_one_dry_file_and_broken_files_are_skipped(tmp_path: Path) -> None:
    good, broken = tmp_path / "good", tmp_path / "odd"
    matched = {
        "01_Lead_Vocal.wav": ["voc.wav"],
        "BV_left.wav": ["bv1.wav", "bv2.wav"],
        "lv_synth.wav": ["s.wav"],
        "drums.wav": ["d.wav"],
        "ld.wav": ["ld_dry.wav"],
    }
    touch(
        good / "correspondence_pp.yaml", broken / "correspondence_pp.yaml", tmp_path / "no" / "correspondence_pp.yaml"
    )
    (good / "correspondence_pp.yaml").write_text(yaml.safe_dump({"matched": matched}))
    (broken / "correspondence_pp.yaml").write_text("matched: {a: [b")
    (tmp_path / "no" / "correspondence_pp.yaml").write_text("other: 1")
    found = find_pairs("internal_vocal", tmp_path)
    assert sorted(found.files, key=str) == [
        PairFiles(good / "dry" / "ld_dry.wav", good / "multi" / "ld.wav", "ld"),
        PairFiles(good / "dry" / "voc.wav", good / "multi" / "01_Lead_Vocal.wav", "01_Lead_Vocal"),
    ]
    skipped = "\n".join(found.skipped)
    assert "good BV_left.wav has 2 dry files, not one" in skipped
    assert "good lv_synth.wav is not named as a vocal" in skipped and "good drums.wav is not named" in skipped
    assert "odd/correspondence_pp.yaml is broken" in skipped and "no/correspondence_pp.yaml is broken" in skipped
    assert len(find_pairs(data_dir=good).files) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pair found: .*empty holds no correspondence_pp.yaml"):
        find_pairs("internal_vocal", tmp_path / "empty")


@pytest.mark.parametrize(
    ("dry", "wet", "name"),
    [
        ("dry.wav", "wet.flac", "top"),
        ("song/dry.mp3", "song/wet.mp3", "song"),
        ("Song_Dry.wav", "Song_wet.ogg", "Song"),
        ("day/a_dry.wav", "day/a_wet.wav", "a"),
        ("dry/x.wav", "wet/x.opus", "x"),
    ],
)
def test_a_folder_may_hold_its_pairs_in_three_ways(tmp_path: Path, dry: str, wet: str, name: str) -> None:
    top = tmp_path / "top"
    touch(top / dry, top / wet, top / "song" / "other.mp3", top / "notes.csv", top / ".dry.wav")
    assert find_pairs(data_dir=top).files == [PairFiles(top / dry, top / wet, name)]


def test_a_folder_tells_what_is_missing_and_what_it_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a_dry.wav", tmp_path / "a_wet.wav", tmp_path / "a_wet.flac", tmp_path / "b_dry.wav")
    with pytest.raises(ValueError, match=r"^no pair found: a has 2 wet files, not one; b has 0 wet files, not one$"):
        find_pairs(data_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    looked_for = r"holds no pair; looked for dry\.\* and wet\.\* \(also in subfolders\), NAME_dry"
    with pytest.raises(ValueError, match=looked_for):
        find_pairs(data_dir=tmp_path / "empty")


def test_the_paths_tell_the_data_set_and_the_wrong_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "take.wav", tmp_path / "mixed.wav")
    expected = [PairFiles(tmp_path / "take.wav", tmp_path / "mixed.wav", "mixed")]
    assert find_pairs(dry="~/take.wav", wet="~/mixed.wav").files == expected
    refusals = {
        "unknown dataset 'medly'; known: medley_vocal, internal_vocal, pair, folder, demo": dict(dataset="medly"),
        "dataset pair takes dry and wet; given: dry=a.wav": dict(dry="a.wav"),
        "dataset pair takes dry and wet; given: data_dir=x, dry=a.wav": dict(dry="a.wav", data_dir="x"),
        "dataset folder takes data_dir; given: none": dict(dataset="folder"),
        "dataset demo takes no path; given: data_dir=x": dict(dataset="demo", data_dir="x"),
        "data_dir=nowhere does not exist: give a folder": dict(data_dir="nowhere"),
        f"data_dir={tmp_path}/take.wav is a file: give a folder": dict(data_dir="~/take.wav"),
        "dry and wet are the same file": dict(dry="~/take.wav", wet=str(tmp_path / "take.wav")),
    }
    for message, arguments in refusals.items():
        with pytest.raises(ValueError) as error:
            find_pairs(**arguments)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_the_built_in_pair_is_whole_aligned_and_long_enough_for_two_chunks() -> None:
    (files,) = find_pairs().files
    assert files.name == "demo" and files.dry_path.parent == DEMO
    assert files.dry_path.stat().st_size + files.wet_path.stat().st_size < 1_500_000
    pair = load_pair(files)
    assert pair.sr == SR and 19 * SR <= pair.dry.shape[-1] <= 25 * SR
    assert abs(pair.alignment_shift) <= 2 and gcc_phat_peak(pair.dry, pair.wet, SR) > 0.5
    assert float(pair.wet[0].sub(pair.wet[1]).abs().max()) > 0.01


@pytest.mark.parametrize("delay", [0, 1, 37, -1, -700])
def test_a_pair_is_cut_aligned_and_brought_to_one_loudness(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, delay: int
) -> None:
    dry, overlap = take(), 2 * SR - abs(delay)
    files = write_pair(tmp_path, torch.cat([dry, dry[:, :9000]], dim=1), mix(dry, delay=delay))
    with caplog.at_level(logging.INFO):
        pair = load_pair(files)
    assert (pair.name, pair.sr, pair.dry_path, pair.wet_path) == ("song", SR, files.dry_path, files.wet_path)
    length = 2 * SR - max(delay, 0)
    assert pair.dry.shape == (1, length) and pair.wet.shape == (2, length)
    assert pair.alignment_shift == delay
    assert loudness(pair.dry, SR) == pytest.approx(-18.0, abs=0.01)
    assert loudness(pair.wet, SR) == pytest.approx(-18.0, abs=0.01)
    wanted = dry[:, max(-delay, 0) :][:, :overlap]
    assert torch.allclose(pair.dry[:, :overlap] / pair.dry[:, :overlap].norm(), wanted / wanted.norm(), atol=1e-7)
    seconds = (2 * SR + 9000 - max(-delay, 0)) / SR, (2 * SR - max(delay, 0)) / SR
    (cut,) = [r.getMessage() for r in caplog.records if "lasts" in r.getMessage()]
    lasts = f"dry lasts {seconds[0]:.2f} s and wet {seconds[1]:.2f} s"
    assert cut == f"song: aligned, {lasts}: {length / SR:.2f} s are used"


def test_levels_stay_and_a_given_shift_is_used_as_it_stands(tmp_path: Path) -> None:
    dry = take()
    wet = mix(dry, delay=50)
    files = write_pair(tmp_path, dry, wet)
    pair = load_pair(files, lufs=None, shift=-49)
    assert pair.alignment_shift == -49
    both = 2 * SR - 49
    assert torch.equal(pair.dry[:, :both], dry[:, 49:]) and torch.equal(pair.wet[:, :both], wet[:, :both])
    rolled = load_pair(files, lufs=None, shift=-49, wrap=True)
    assert torch.equal(rolled.dry, dry.roll(-49, dims=-1)) and torch.equal(rolled.wet, wet)
    unmoved = load_pair(files, lufs=None, align=False)
    assert unmoved.alignment_shift == 0 and torch.equal(unmoved.dry, dry)


def test_other_rates_are_resampled_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dry = take(sr=48000)
    write_audio(tmp_path / "dry.wav", dry, 48000)
    write_audio(tmp_path / "wet.opus", mix(dry, 48000, 480), 48000)
    with caplog.at_level(logging.INFO):
        pair = load_pair(PairFiles(tmp_path / "dry.wav", tmp_path / "wet.opus", "x"))
    assert pair.dry.shape == (1, 2 * SR - 441) and pair.alignment_shift == 441
    assert "dry.wav: resampled from 48000 to 44100 Hz" in caplog.text and "wet.opus: resampled" in caplog.text


def test_mono_kept_in_stereo_is_folded_and_a_real_stereo_take_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dry = take()
    wet = mix(dry)
    other = take(seed=1)
    with caplog.at_level(logging.INFO):
        panned = load_pair(write_pair(tmp_path, torch.cat([dry, 0.5 * dry + 0.01 * other]), wet), lufs=None)
    assert "dry.wav: stereo, averaged to mono" in caplog.text
    assert torch.allclose(panned.dry, 0.75 * dry + 0.005 * other, atol=1e-7)
    with caplog.at_level(logging.INFO):
        left = load_pair(write_pair(tmp_path, torch.cat([dry, 0 * dry]), wet), lufs=None)
    assert "dry.wav: one channel is silent, the other is used" in caplog.text and torch.equal(left.dry, dry)
    files = write_pair(tmp_path, torch.cat([dry, other]), wet)
    with pytest.raises(
        ValueError, match=r"dry.wav is no mono recording: its side signal peaks at \S+ dB, dry .* swapped\?\)"
    ):
        load_pair(files)


def test_a_mono_record_is_copied_to_both_sides_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dry = take()
    pair = load_pair(write_pair(tmp_path, dry, mix(dry).mean(dim=0, keepdim=True)))
    assert torch.equal(pair.wet[0], pair.wet[1])
    assert "wet.wav is mono: copied to both channels" in caplog.text


@pytest.mark.parametrize("side", ["dry", "wet"])
def test_silence_many_channels_and_scraps_are_refused_on_either_side(tmp_path: Path, side: str) -> None:
    dry = take()
    good = {"dry": dry, "wet": mix(dry)}
    refused = {
        "wav is silent: nothing lies above -70 LUFS": 0 * dry,
        "wav has 8 channels, at most 2 are allowed: export it as mono or stereo": dry.expand(8, -1),
        "wav: 0.300 s is too short to measure loudness": dry[:, : round(0.3 * SR)],
    }
    for message, x in refused.items():
        files = write_pair(tmp_path, **(good | {side: x}))
        with pytest.raises(ValueError) as error:
            load_pair(files)
        assert message in str(error.value)
        if "short" not in message:
            assert f"{side}.{message}" in str(error.value)


def test_unrelated_files_are_refused_unless_the_check_is_off(tmp_path: Path) -> None:
    files = write_pair(tmp_path, take(4.0), mix(take(4.0, seed=1)))
    with pytest.raises(
        ValueError, match=r"seem unrelated: their whitened correlation is 0\.0\d\d, .* set check_pair=false"
    ):
        load_pair(files)
    assert load_pair(files, check=False).dry.shape == (1, 4 * SR)


def test_swapped_files_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dry = take()
    right = write_pair(tmp_path, dry, mix(dry))
    load_pair(right)
    assert not caplog.records
    write_pair(tmp_path, mix(dry).mean(dim=0, keepdim=True), dry.expand(2, -1))
    load_pair(right)
    assert "the quiet parts of wet are" in caplog.text and "swapped?" in caplog.text
    caplog.clear()
    write_pair(tmp_path, dry.expand(2, -1), mix(dry).mean(dim=0, keepdim=True))
    load_pair(right)
    assert "wet.wav is mono and" in caplog.text and "dry.wav is stereo: are dry and wet swapped?" in caplog.text


def test_the_real_excerpts_pass_and_their_mismatches_do_not() -> None:
    folder = SHARED / "audio" / "medleydb_excerpts"
    if not folder.exists():
        pytest.skip("needs ../shared/audio")
    found = find_pairs(data_dir=folder).files
    assert len(found) == 10 and all(files.name == files.wet_path.parent.name for files in found)
    first, second, *_ = (load_pair(files, lufs=None) for files in found[:2])
    assert first.wet.shape[0] == 2
    with pytest.raises(ValueError, match="seem unrelated"):
        load_pair(PairFiles(found[0].dry_path, found[1].wet_path, "mismatch"))
