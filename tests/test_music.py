"""The music generator: determinism, form, coverage of its tables, and the statistics of what it makes."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reknob.data.music import STYLES, generate_music, generate_tracks
from reknob.data.music.beats import GROOVES
from reknob.data.music.drums import DRUMS
from reknob.data.music.parts import PARTS
from reknob.data.music.phrased import PHRASED
from reknob.data.music.struck import STRUCK
from reknob.data.music.styles import KITS
from reknob.data.music.sustained import SUSTAINED

SECONDS, SR, COUNT = 3.0, 44100, 32
DIGEST = """
import hashlib
from reknob.data.music import generate_music
print(hashlib.sha256(b"".join(generate_music(seed, 1.5).tobytes() for seed in range(3))).hexdigest())
"""


@pytest.fixture(scope="module")
def excerpts() -> np.ndarray:
    """Excerpts (COUNT, N) of 3 seconds."""
    return np.concatenate([generate_music(seed, SECONDS, SR) for seed in range(COUNT)])


def third_octaves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre frequencies and level in dB per Hz of the long-term spectrum in bands of a third of an octave."""
    frames = np.lib.stride_tricks.sliding_window_view(x, 8192)[::4096] * np.hanning(8192)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(0)
    freq = np.fft.rfftfreq(8192, 1 / SR)
    centre = 1000.0 * 2.0 ** (np.arange(-10, 13) / 3)
    bands = [power[(freq >= c * 2 ** (-1 / 6)) & (freq < c * 2 ** (1 / 6))].mean() for c in centre]
    return centre, 10 * np.log10(bands)


def test_a_seed_gives_the_same_samples_in_every_call_process_and_number_of_threads() -> None:
    pieces = {seed: generate_music(seed, 1.5).tobytes() for seed in reversed(range(3))}
    here = hashlib.sha256(b"".join(pieces[seed] for seed in range(3))).hexdigest()
    assert digest_elsewhere(threads=1) == here


def digest_elsewhere(threads: int) -> str:
    """Digest of the first three pieces in a fresh process whose BLAS has a number of threads."""
    settings = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", DIGEST]
    return subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, check=True).stdout.strip()


def test_different_seeds_give_different_music(excerpts: np.ndarray) -> None:
    unit = excerpts / np.linalg.norm(excerpts, axis=1, keepdims=True)
    likeness = np.abs(unit @ unit.T - np.eye(COUNT))
    assert likeness.max() < 0.5


def test_samples_are_finite_with_peak_one_and_no_dc(excerpts: np.ndarray) -> None:
    assert excerpts.dtype == np.float32
    assert np.isfinite(excerpts).all()
    np.testing.assert_allclose(np.abs(excerpts).max(axis=1), 1.0, atol=1e-6)
    assert np.abs(excerpts.mean(axis=1)).max() < 1e-5


@pytest.mark.parametrize(
    ("duration", "sr"), [(1.2345, 22050), (0.77777, 48000), (0.01, 44100), (2.0, 16000), (1.0, 96000)]
)
def test_the_length_is_exact_at_any_duration_and_sample_rate(duration: float, sr: int) -> None:
    x = generate_music(3, duration, sr)
    assert x.shape == (1, round(duration * sr))
    assert np.isfinite(x).all()
    assert np.abs(x).max() == pytest.approx(1.0)


def test_no_excerpt_is_silent_for_half_of_its_length(excerpts: np.ndarray) -> None:
    blocks = excerpts[:, : int(SECONDS * 20) * (SR // 20)].reshape(COUNT, -1, SR // 20)
    level = np.sqrt((blocks**2).mean(2))
    silent = (level < 10 ** (-60 / 20) * level.max(axis=1, keepdims=True)).mean(1)
    assert silent.max() < 0.5


def test_ten_seconds_take_far_less_than_real_time() -> None:
    generate_music(0)
    start = time.process_time()
    for seed in range(1, 3):
        generate_music(seed)
    assert (time.process_time() - start) / 2 < 3.0


def test_long_term_spectra_fall_and_spread_as_those_of_real_music(excerpts: np.ndarray) -> None:
    spectra = [third_octaves(x) for x in excerpts]
    centre = spectra[0][0]
    tilt = np.array([np.polyfit(np.log2(centre), np.maximum(db, db.max() - 100), 1)[0] for _, db in spectra])
    assert -6.5 < tilt.mean() < -4.0
    assert 1.0 < tilt.std() < 4.0
    relative = np.array([db - db.max() for _, db in spectra])
    assert relative.std(axis=0).min() > 4.0


def test_crest_factors_and_dynamics_lie_where_real_music_has_them(excerpts: np.ndarray) -> None:
    crest = -10 * np.log10((excerpts**2).mean(axis=1))
    assert 12.0 < crest.mean() < 17.5
    assert 2.0 < crest.std() < 5.0
    blocks = excerpts[:, : int(SECONDS * 2.5) * int(0.4 * SR)].reshape(COUNT, -1, int(0.4 * SR))
    level = 10 * np.log10((blocks**2).mean(2) + 1e-9)
    spread = np.percentile(level, 95, axis=1) - np.percentile(level, 10, axis=1)
    assert 3.0 < np.median(spread) < 9.0


def test_every_style_plays_and_its_tracks_are_as_long_as_the_piece() -> None:
    for style in STYLES:
        tracks = generate_tracks(7, 1.5, 22050, style=style)
        assert tracks, style
        for x in tracks.values():
            assert x.shape == (1, 33075) and x.dtype == np.float32 and np.isfinite(x).all()


def test_a_solo_voice_is_one_track_of_that_name() -> None:
    tracks = generate_tracks(1, 3.0, style="solo voice")
    assert list(tracks) == ["voice"]
    assert np.abs(tracks["voice"]).max() > 0


def test_players_ask_only_for_parts_and_instruments_that_exist() -> None:
    pitched = {*STRUCK, *SUSTAINED, *PHRASED, "voice"}
    for name, style in STYLES.items():
        assert len({player.name for player in style.band}) == len(style.band), name
        for player in style.band:
            for on in player.on:
                known = GROOVES if on in KITS and "percussion" not in player.plays else PARTS
                assert on in pitched or on in KITS or on == "texture", (name, on)
                if on != "texture" and "percussion" not in player.plays:
                    assert set(player.plays) <= set(known), (name, player.plays)
    assert {drum for kit in KITS.values() for drum in kit} <= set(DRUMS)


def test_every_instrument_is_played_in_some_style() -> None:
    used = {on for style in STYLES.values() for player in style.band for on in player.on}
    assert used >= {*STRUCK, *SUSTAINED, *PHRASED, *KITS}


def test_an_unknown_style_and_an_empty_length_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown style 'polka'; known: rock, metal"):
        generate_music(0, style="polka")
    with pytest.raises(ValueError, match="below one sample"):
        generate_music(0, 0.0)
