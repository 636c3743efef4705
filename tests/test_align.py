"""Lag, polarity, drift and edits of a wet recording against its dry one, on the built-in pair and its faults."""

from collections.abc import Callable
from pathlib import Path

import pair_faults as faults
import pytest
import torch
from torch import Tensor

from reknob.data.align import measure_alignment
from reknob.data.audio import read_audio
from reknob.data.pair_files import DEMO
from reknob.data.prepare import crop_to_overlap, undo_drift

SR = 44100
KNOWN = Path(__file__).parents[2] / "shared" / "audio" / "known_presets"


@pytest.fixture(scope="module")
def demo() -> tuple[Tensor, Tensor]:
    """10 s of the demo, dry (1, T) and wet (2, T); its lag is 0."""
    dry, wet = (read_audio(DEMO / name)[0][:, : 10 * SR] for name in ("dry.flac", "wet.ogg"))
    return dry, wet


@pytest.mark.parametrize(
    ("fault", "lag", "polarity"),
    [
        (lambda d, w: (d, w), 0, (1, 1)),
        (lambda d, w: (d, -w), 0, (-1, -1)),
        (lambda d, w: (d, faults.late(-w, 317)), 317, (-1, -1)),
        (lambda d, w: (d, w * torch.tensor([[1.0], [-1.0]])), 0, (1, -1)),
        (lambda d, w: (d, w * torch.tensor([[-1.0], [1.0]])), 0, (-1, 1)),
        (lambda d, w: (d, faults.late(w, 10 * SR)), 10 * SR, (1, 1)),
        (lambda d, w: (faults.late(d, 3 * SR), w), -3 * SR, (1, 1)),
        (lambda d, w: (d, faults.fraction_late(w)), 0.75, (1, 1)),
        (lambda d, w: (d, faults.with_other_sound(w, 1.0)), 0, (1, 1)),
        (lambda d, w: (d, w[:, : 6 * SR]), 0, (1, 1)),
        (lambda d, w: (d, w.mean(0, keepdim=True)), 0, (1,)),
        (lambda d, w: (1e-5 * d, 1e-5 * w), 0, (1, 1)),
        (lambda d, w: (6 * d, (4 * w).clamp(-1, 1)), 0, (1, 1)),
    ],
)
def test_lag_and_polarity_are_those_that_were_made(
    demo: tuple[Tensor, Tensor],
    fault: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    lag: float,
    polarity: tuple[int, ...],
) -> None:
    found = measure_alignment(*fault(*demo), SR)
    assert found.lag_samples == pytest.approx(lag, abs=0.25)
    assert found.polarity == polarity
    assert found.drift_ppm == 0 and found.edits == ()
    assert found.agreement > 0.8 and found.gcc_phat_peak > 0.3


@pytest.mark.parametrize("ppm", [20.0, 145.0, -300.0])
def test_a_drift_is_measured_and_undone(demo: tuple[Tensor, Tensor], ppm: float) -> None:
    dry, wet = demo[0], faults.faster(faults.late(demo[1], 1000), ppm)
    found = measure_alignment(dry, wet, SR)
    assert found.drift_ppm == pytest.approx(ppm, abs=2)
    assert found.lag_samples == pytest.approx(1000, abs=1.5)
    again = measure_alignment(dry, undo_drift(wet, found.drift_ppm, found.lag_samples), SR)
    assert again.drift_ppm == 0 and again.lag_samples == pytest.approx(found.lag_samples, abs=0.7)


def test_undoing_a_drift_restores_the_waveform_and_no_drift_changes_nothing(demo: tuple[Tensor, Tensor]) -> None:
    wet = demo[1][:, : 2 * SR]
    assert torch.allclose(undo_drift(wet, 0.0), wet, atol=1e-6)
    t = torch.arange(2 * SR, dtype=torch.float64) / SR
    fast, right = (torch.sin(2 * torch.pi * 5000 * t * k)[None].float() for k in (1 + 300e-6, 1.0))
    restored = undo_drift(fast, 1e6 * (1 - 1 / (1 + 300e-6)))
    assert restored.shape[-1] > 2 * SR
    assert torch.allclose(restored[:, 100 : 2 * SR - 100], right[:, 100:-100], atol=2e-3)


@pytest.mark.parametrize("jump", [-SR, -2000])
def test_an_edit_is_a_jump_at_its_time(demo: tuple[Tensor, Tensor], jump: int) -> None:
    found = measure_alignment(demo[0], faults.cut_out(demo[1], 5 * SR, -jump), SR)
    ((time, samples),) = found.edits
    assert time == pytest.approx(5.0, abs=1.2) and samples == pytest.approx(jump, abs=1)
    assert found.lag_samples == pytest.approx(0, abs=0.3) and found.drift_ppm == 0


def test_unrelated_silent_and_short_recordings_have_no_likeness(demo: tuple[Tensor, Tensor]) -> None:
    dry, wet = demo
    assert measure_alignment(dry, wet.flip(1), SR).gcc_phat_peak < 0.03
    for length in (1, 50, 3000):
        measure_alignment(dry[:, :length], wet[:, :length], SR)
    assert measure_alignment(dry, 0 * wet, SR).gcc_phat_peak == 0


def test_other_rates_give_the_lag_in_their_own_samples(demo: tuple[Tensor, Tensor]) -> None:
    dry, wet = (faults.at_rate(x, 160, 441) for x in demo)
    assert measure_alignment(dry, faults.late(wet, 160), 16000).lag_samples == pytest.approx(160, abs=0.3)


def test_cropping_keeps_what_overlaps_and_a_tail() -> None:
    dry, wet = torch.arange(1.0, 11)[None], torch.arange(1.0, 11).expand(2, -1)
    late_dry, late_wet = crop_to_overlap(dry, wet, 3, 0)
    assert late_dry[0].tolist() == [1, 2, 3, 4, 5, 6, 7] and late_wet[0].tolist() == [4, 5, 6, 7, 8, 9, 10]
    early_dry, early_wet = crop_to_overlap(dry, wet, -3, 2)
    assert early_dry[0].tolist() == [4, 5, 6, 7, 8, 9, 10, 0, 0] and early_wet[0].tolist() == list(range(1, 10))


def test_the_pairs_whose_chain_is_known_are_in_time() -> None:
    folders = sorted(KNOWN.glob("??"))
    if not folders:
        pytest.skip("needs ../shared/audio")
    for folder in folders:
        dry, wet = (read_audio(folder / f"{name}.mp3")[0] for name in ("anchor", "oracle"))
        found = measure_alignment(dry.mean(0, keepdim=True), wet, SR)
        assert abs(found.lag_samples) < 0.8 and found.polarity == (1, 1) and found.drift_ppm == 0
