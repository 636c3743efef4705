"""Scoring a preset set: rows under their own tracks' names, what is left out, and the published excerpts' scores."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

import loss_eval
from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, write_audio
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import load_pair
from reknob.fitting.evaluation import MOST_Q, PresetScore, Scorer, mean_terms, score_presets, write_scores
from reknob.formats.presets import Preset, load_presets, write_presets
from reknob.losses.metrics import VocalMetrics
from reknob.losses.vocal import TERMS, VocalLoss
from reknob.runtime.errors import UsageError

SR = 44100
SHARED = Path(__file__).parents[2] / "shared"
CHAIN = {
    "peak": {"effect": "peak"},
    "sends": {
        "effect": "sends",
        "delay": {
            "effect": "ping_pong_delay",
            "ir_duration": 2,
            "eq": {"effect": "low_pass", "Q": {"range": [0.5, 2]}},
        },
    },
}


@pytest.fixture(scope="module")
def chain() -> Effect:
    return build(CHAIN, SR)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, chain: Effect) -> Path:
    """A set, and its three tracks of 2.5 s, each its dry file through its preset; dry begins 50 samples late."""
    place, presets = tmp_path_factory.mktemp("rendered"), []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        dry = 0.1 * torch.randn(1, int(2.5 * SR), generator=generator) * torch.linspace(0.2, 1, int(2.5 * SR))
        dry = normalise_loudness(dry, SR, -18)
        raws = {
            name: raw + 0.5 * torch.randn(raw.shape, generator=generator)
            for name, raw in Knobs(chain).state_dict().items()
        }
        paths = [f"/elsewhere/song{i}/{side}.wav" for side in ("take", "mix")]
        preset = Preset(i, *paths, -50, raws)
        folder = place / "audio" / f"song{i}"
        write_audio(folder / "take.wav", pad(dry, (50, 0)), SR)
        write_audio(folder / "mix.wav", render(chain.eval(), preset.values(chain), dry), SR)
        presets.append(preset)
    write_presets(place / "set", presets, chain, chain=CHAIN, rejected={})
    return place


@pytest.fixture
def scored_set(tmp_path: Path, rendered: Path) -> Path:
    """The set, in a folder of the test's own."""
    shutil.copytree(rendered, tmp_path, dirs_exist_ok=True)
    return tmp_path / "set"


def score(folder: Path, *flags: str) -> tuple[int, list[dict[str, str]]]:
    output = folder.parent / "scores.csv"
    root = f"/elsewhere={folder.parent / 'audio'}"
    status = loss_eval.main([str(folder), str(output), "--cpu", "--root", root, *flags])
    with open(output, newline="") as file:
        return status, list(csv.DictReader(file))


def numbers(row: dict[str, str]) -> list[float]:
    return [float(row[term]) for term in TERMS]


def test_presets_that_made_their_tracks_score_almost_nothing(scored_set: Path, capsys: pytest.CaptureFixture) -> None:
    status, rows = score(scored_set, "--lufs", "off")
    assert status == 0
    assert list(rows[0]) == ["track_id", "stem_id", *TERMS]
    assert [(row["track_id"], row["stem_id"]) for row in rows] == [(f"song{i}", "take") for i in range(3)]
    assert max(max(numbers(row)) for row in rows) < 1e-3
    mean = np.mean([numbers(row) for row in rows], axis=0)
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed == "mean of 3: " + ", ".join(f"{t} {m:.5f}" for t, m in zip(TERMS, mean, strict=True))


def test_unprocessed_tracks_score_as_the_loss_of_the_dry_sound_on_both_sides(scored_set: Path, chain: Effect) -> None:
    _, rows = score(scored_set, "--no-process", "--lufs", "off", "--subset", "song1")
    files = PairFiles(*(scored_set.parent / "audio" / "song1" / f"{x}.wav" for x in ("take", "mix")), "song1")
    pair = load_pair(files, SR, None, shift=-50, check=False)
    _, terms = VocalLoss(SR)(pair.dry.expand(2, -1)[None], pair.wet[None])
    assert len(rows) == 1 and rows[0]["track_id"] == "song1"
    assert numbers(rows[0]) == pytest.approx([term.item() for term in terms.values()], rel=1e-5)


def test_another_registered_loss_scores_under_its_own_name(scored_set: Path, capsys: pytest.CaptureFixture) -> None:
    vocal = score(scored_set, "--no-process")[1]
    status, rows = score(scored_set, "--no-process", "--loss=mss")
    assert status == 0 and list(rows[0]) == ["track_id", "stem_id", "mss"]
    for row, terms in zip(rows, vocal, strict=True):
        assert float(row["mss"]) == pytest.approx((float(terms["mss_lr"]) + 2 * float(terms["mss_ms"])) / 3, rel=1e-5)
    assert "mean of 3: mss " in capsys.readouterr().out


def test_a_track_that_is_not_finite_or_missing_is_named_and_the_others_keep_their_names(
    scored_set: Path, capsys: pytest.CaptureFixture
) -> None:
    before = score(scored_set)[1]
    vectors = np.load(scored_set / "raw_params.npy")
    vectors[0, 0] = np.nan
    np.save(scored_set / "raw_params.npy", vectors)
    (scored_set.parent / "audio" / "song1" / "mix.wav").unlink()
    capsys.readouterr()
    status, rows = score(scored_set)
    assert status == 2 and rows == before[2:]
    errors = capsys.readouterr().err
    assert "left out: song0 take: the render is not finite from 0.000 s on" in errors
    assert "left out: song1 take" in errors and "mix.wav does not exist" in errors
    assert "2 of 3 tracks left out" in errors


def test_a_row_is_on_the_disk_before_the_next_is_computed(scored_set: Path, chain: Effect, tmp_path: Path) -> None:
    seen = []

    def scorer(preset: Preset) -> dict[str, float]:
        seen.append((tmp_path / "rows.csv").read_text().count("\n"))
        return dict.fromkeys(TERMS, 0.0)

    with open(tmp_path / "rows.csv", "w", newline="") as file:
        list(write_scores(file, score_presets(load_presets(scored_set, chain), scorer)))
    assert seen[1:] == [2, 3]


def test_a_preset_that_cannot_be_scored_gives_its_reason_and_the_others_their_terms(
    scored_set: Path, chain: Effect, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    def scorer(preset: Preset) -> dict[str, float]:
        if preset.row == 1:
            raise UsageError("its recording\nis gone")
        return dict.fromkeys(TERMS, float(preset.row))

    with open(tmp_path / "rows.csv", "w", newline="") as file:
        scores = list(write_scores(file, score_presets(load_presets(scored_set, chain), scorer)))
    assert [(score.preset.track, score.problem) for score in scores] == [
        ("song0", ""),
        ("song1", "its recording is gone"),
        ("song2", ""),
    ]
    assert scores[1].terms is None
    assert (tmp_path / "rows.csv").read_text().count("\n") == 3
    assert mean_terms(score.terms for score in scores if score.terms) == dict.fromkeys(TERMS, 1.0)
    assert mean_terms([]) == {}
    assert capfd.readouterr() == ("", "")


def test_an_error_raised_by_the_consumer_is_not_taken_for_one_of_the_scorer(scored_set: Path, chain: Effect) -> None:
    scores = score_presets(load_presets(scored_set, chain), lambda preset: {})
    assert isinstance(next(scores), PresetScore)
    with pytest.raises(OSError, match="mine"):
        scores.throw(OSError("mine"))


def test_clip_q_caps_the_filter_of_the_delay_only(scored_set: Path, chain: Effect) -> None:
    values = load_presets(scored_set, chain)[0].values(chain)
    values["sends"]["delay"]["eq"]["Q"] = torch.tensor(1.5)
    values["peak"]["Q"] = torch.tensor(5.0)
    values = chain.limit_loop_q(values, MOST_Q)
    assert values["sends"]["delay"]["eq"]["Q"] == torch.tensor(0.707)
    assert values["peak"]["Q"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--root", "x"), "OLD=NEW"), (("--lufs", "loud"), "LUFS, or off"), (("--subset", "9"), "rows 0 to 2")],
)
def test_flags_that_say_nothing_are_refused_before_anything_is_written(
    flags: tuple[str, ...], message: str, scored_set: Path, capsys: pytest.CaptureFixture
) -> None:
    assert loss_eval.main([str(scored_set), str(scored_set / "out.csv"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (scored_set / "out.csv").exists()


@pytest.mark.parametrize(
    ("roots", "path", "here"),
    [
        ([("/data/medley1", "/mnt")], "/data/medley10/a.wav", "/data/medley10/a.wav"),
        ([("/data/medley1", "/mnt")], "/data/medley1/a.wav", "/mnt/a.wav"),
        ([("/data/medley1/", "/mnt/")], "/data/medley1/a.wav", "/mnt/a.wav"),
        ([("/data/medley1", "/mnt/")], "/data//medley1/b/a.wav", "/mnt/b/a.wav"),
        ([("/data/a.wav", "/mnt/b.wav")], "/data/a.wav", "/mnt/b.wav"),
        ([("/", "/mnt")], "/data/a.wav", "/mnt/data/a.wav"),
        ([("data", "other")], "data/a.wav", "other/a.wav"),
        ([("/data", "/one"), ("/data/b", "/two")], "/data/b/a.wav", "/one/b/a.wav"),
        ([], "/data/a.wav", "/data/a.wav"),
    ],
)
def test_roots_are_whole_folders(roots: list, path: str, here: str, chain: Effect) -> None:
    scorer = Scorer(chain, VocalMetrics(SR), torch.device("cpu"), None, roots)
    assert str(scorer.locate(path)) == here


@pytest.mark.parametrize("path", ["/a/\0.wav", "~nosuchuser/a.wav", "x" * 5000])
def test_a_track_whose_path_cannot_be_is_left_out(path: str, scored_set: Path, capsys: pytest.CaptureFixture) -> None:
    info = json.loads((scored_set / "info.json").read_text())
    info["dry_files"][1] = "/nowhere" if "\0" in path else path
    info["wet_files"][1] = path.replace("\0", "\udcff")
    (scored_set / "info.json").write_text(json.dumps(info))
    status, rows = score(scored_set)
    assert status == 2 and [row["track_id"] for row in rows] == ["song0", "song2"]
    assert capsys.readouterr().err.count("left out: ") == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published excerpts are not here")
def test_a_published_preset_on_its_excerpt_scores_as_the_release_does(tmp_path: Path) -> None:
    excerpts, medleydb = SHARED / "audio" / "medleydb_excerpts", SHARED / "presets" / "medleydb"
    song = excerpts / "HopAlong_SisterCities"
    with open(excerpts / "published_scores.csv", newline="") as file:
        published = {(row["track"], row["window"], row["system"]): row for row in csv.DictReader(file)}
    row_of_release = published[song.name, "full", "preset_render"]
    info = json.loads((medleydb / "info.json").read_text())
    info |= {"dry_files": [f"{song}/dry.mp3"], "wet_files": [f"{song}/wet.mp3"], "alignment_shifts": [0], "runs": []}
    (tmp_path / "info.json").write_text(json.dumps(info))
    np.save(tmp_path / "raw_params.npy", np.load(medleydb / "raw_params.npy")[[int(row_of_release["row"])]])
    output = tmp_path / "scores.csv"
    assert loss_eval.main([str(tmp_path), str(output), "--cpu", "--lufs", "off", "--mldr-rows", "rolled"]) == 0
    with open(output, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["track_id"] == song.name
    assert numbers(row) == pytest.approx(numbers(row_of_release), rel=1e-3)
