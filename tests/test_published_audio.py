"""Real takes rendered with their published presets sound like the published renders."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reknob.data.audio import read_audio
from scripts import render

SHARED = Path(__file__).parents[2] / "shared"
EXCERPTS, PRESETS = SHARED / "audio" / "medleydb_excerpts", SHARED / "presets" / "medleydb"
SONGS = ("AClassicEducation_NightOwl", "MusicDelta_Country1")
SR = 44100
WARM_UP = 5 * SR
TOLERANCE_DB = 0.5

pytestmark = pytest.mark.skipif(
    not (EXCERPTS.is_dir() and PRESETS.is_dir()), reason="the excerpts and the published presets are not here"
)


def si_sdr_db(estimate: Tensor, reference: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio of (C, T) in dB, channels without their means."""
    estimate, reference = ((x - x.mean(-1, keepdim=True)).double().flatten() for x in (estimate, reference))
    target = reference * (estimate @ reference) / (reference @ reference)
    return float(10 * torch.log10(target.square().sum() / (estimate - target).square().sum()))


def published(song: str) -> dict[str, str]:
    with (EXCERPTS / "published_renders.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["song"] == song)


def agreement_db(song: str, row: str, reference: str, out: Path, *flags: str) -> float:
    """How close our render comes to a published one after the warm-up."""
    preset = ["--preset", str(PRESETS), "--row", row]
    assert render.main([*preset, "--loudness", "off", *flags, str(EXCERPTS / song / "dry.mp3"), str(out)]) == 0
    ours, theirs = read_audio(out)[0], read_audio(EXCERPTS / song / reference)[0]
    length = min(ours.shape[-1], theirs.shape[-1])
    return si_sdr_db(ours[:, WARM_UP:length], theirs[:, WARM_UP:length])


@pytest.mark.parametrize("song", SONGS)
def test_the_published_render_is_reproduced_as_well_as_by_the_release(song: str, tmp_path: Path) -> None:
    theirs = published(song)
    got = agreement_db(song, theirs["preset_row"], "diffvox.mp3", tmp_path / "out.wav")
    assert got == pytest.approx(float(theirs["sisdr_db"]), abs=TOLERANCE_DB)


def test_the_published_real_time_render_is_reproduced_as_well_as_by_the_release(tmp_path: Path) -> None:
    theirs = published(SONGS[0])
    got = agreement_db(SONGS[0], theirs["preset_row"], "rt_diffvox.mp3", tmp_path / "out.wav", "--realtime")
    assert got == pytest.approx(float(theirs["realtime_sisdr_db"]), abs=TOLERANCE_DB)


def test_another_row_does_not_give_the_published_render(tmp_path: Path) -> None:
    assert agreement_db(SONGS[0], "1", "diffvox.mp3", tmp_path / "out.wav") < 20
