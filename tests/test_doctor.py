"""What the check of a pair says of the faults that recordings have, and that it says nothing of a good one."""

import logging
from pathlib import Path

import pair_faults as faults
import pytest
import torch
from torch import Tensor

from reknob.data.audio import loudness, read_audio, write_audio
from reknob.data.doctor import CODES, clipped_share
from reknob.data.pair_files import DEMO, PairFiles
from reknob.data.pairs import Pair, PairError, load_pair

SR = 44100


@pytest.fixture(scope="module")
def demo() -> tuple[Tensor, Tensor]:
    dry, wet = (read_audio(DEMO / name)[0][:, : 10 * SR] for name in ("dry.flac", "wet.ogg"))
    return dry, wet


def load(folder: Path, dry: Tensor, wet: Tensor, rates: tuple[int, int] = (SR, SR), **options: object) -> Pair:
    write_audio(folder / "dry.wav", dry, rates[0])
    write_audio(folder / "wet.wav", wet, rates[1])
    return load_pair(PairFiles(folder / "dry.wav", folder / "wet.wav", "song"), **options)


def severities(pair: Pair) -> dict[str, str]:
    return {finding.code: finding.severity for finding in pair.check.findings}


def test_a_good_pair_takes_one_line(
    demo: tuple[Tensor, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        pair = load(tmp_path, *demo)
    assert pair.check.findings == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("song: a good pair: lag -0.")


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


FAULTS = {
    "inverted": (lambda d, w: (d, -w), {"inverted": "note"}),
    "inverted_late": (lambda d, w: (d, faults.late(-w, 317)), {"inverted": "note", "lag": "note"}),
    "one_channel_inverted": (
        lambda d, w: (d, w * torch.tensor([[1.0], [-1.0]])),
        {"channel_inverted": "warning"},
    ),
    "drift": (lambda d, w: (d, faults.faster(w, 145)), {"drift": "warning"}),
    "count_in": (lambda d, w: (d, faults.late(w, 10 * SR)), {"lag": "note"}),
    "early": (lambda d, w: (faults.late(d, 3 * SR), w), {"lag": "note"}),
    "edit": (lambda d, w: (d, faults.cut_out(w, 5 * SR, SR)), {"edits": "warning", "lengths": "note"}),
    "dc_wet": (lambda d, w: (d, w + 0.1), {"dc": "note"}),
    "dc_dry": (lambda d, w: (d + 0.1, w), {"dc": "note"}),
    "one_channel_silent": (lambda d, w: (d, w * torch.tensor([[1.0], [0.0]])), {"silent_channel": "warning"}),
    "tail_cut": (lambda d, w: (d, w[:, : 7 * SR]), {"lengths": "note"}),
    "gated_dry": (lambda d, w: (d * (d.abs() > 0.02), w), {"gated_dry": "note"}),
    "noisy_dry": (lambda d, w: (d + 0.03 * d.std() * noise(d), w), {"noise_floor": "note"}),
    "clipped": (lambda d, w: (d, (4 * w).clamp(-1, 1)), {"clipping": "warning"}),
    "over_full_scale": (lambda d, w: (6 * d, 9 * w), {}),
    "very_quiet": (lambda d, w: (1e-5 * d, 1e-5 * w), {"quiet_file": "note"}),
    "far_apart": (lambda d, w: (d, 1e-2 * w), {"gain": "note"}),
    "band_limited": (lambda d, w: (d, faults.low_passed(w, 7500)), {"band_edge": "warning"}),
    "other_sound": (lambda d, w: (d, faults.with_other_sound(w)), {"foreign": "warning"}),
    "mono_wet": (lambda d, w: (d, w.mean(0, keepdim=True)), {"mono_wet": "warning"}),
    "identical": (lambda d, w: (d, 0.5 * d.expand(2, -1)), {"identical": "warning"}),
    "swapped": (lambda d, w: (w.mean(0, keepdim=True), d.expand(2, -1)), {"swapped": "warning"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_and_nothing_else(demo: tuple[Tensor, Tensor], tmp_path: Path, name: str) -> None:
    make, told = FAULTS[name]
    pair = load(tmp_path, *make(*demo))
    assert severities(pair) == told
    assert pair.dry.shape[-1] == pair.wet.shape[-1]
    for finding in pair.check.findings:
        assert finding.code in CODES and "\n" not in str(finding) and finding.text


def test_both_inverted_channels_are_turned_and_a_single_one_when_asked(
    demo: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    dry, wet = demo
    assert torch.equal(load(tmp_path, dry, -wet, lufs=None).wet, wet)
    one = wet * torch.tensor([[1.0], [-1.0]])
    kept = load(tmp_path, dry, one, lufs=None)
    assert torch.equal(kept.wet, one) and kept.check.record()["polarity"] == [1, -1]
    assert torch.equal(load(tmp_path, dry, one, lufs=None, fix_channel_polarity=True).wet, wet)


def test_a_count_in_and_an_early_wet_lose_nothing_that_overlaps_and_nothing_wraps(
    demo: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    dry, wet = demo
    late = load(tmp_path, dry, faults.late(wet, 10 * SR), lufs=None)
    assert late.alignment_shift == 10 * SR and torch.equal(late.dry, dry) and torch.equal(late.wet, wet)
    early = load(tmp_path, faults.late(dry, 3 * SR), wet, lufs=None)
    assert early.alignment_shift == -3 * SR and torch.equal(early.dry, dry) and torch.equal(early.wet, wet)


def test_a_ringing_tail_is_kept_beside_silence_and_a_silent_one_is_not(
    demo: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    dry, wet = demo
    pair = load(tmp_path, dry[:, : 5 * SR], wet[:, : 6 * SR], lufs=None)
    assert 5 * SR < pair.dry.shape[-1] <= 6 * SR and not pair.dry[:, 5 * SR :].any() and pair.wet[:, 5 * SR :].any()
    silent = load(tmp_path, dry, torch.cat([wet, torch.zeros(2, 5 * SR)], 1), lufs=None)
    assert silent.dry.shape[-1] == 10 * SR and severities(silent) == {"lengths": "note"}


def test_a_drift_is_corrected_when_asked(demo: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    dry, wet = demo
    pair = load(tmp_path, dry, faults.faster(wet, 145), lufs=None, fix_drift=True)
    assert pair.check.drift_ppm == pytest.approx(145, abs=5) and "corrected" in str(pair.check.findings[0])
    again = load(tmp_path, pair.dry, pair.wet)
    assert again.check.drift_ppm == 0 and abs(again.check.lag_samples) < 0.5


def test_offsets_are_removed_and_faint_files_raised(demo: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    dry, wet = demo
    pair = load(tmp_path, dry + 0.1, wet, lufs=None)
    assert abs(float(pair.dry.mean())) < 1e-4
    faint = load(tmp_path, 1e-5 * dry, 1e-5 * wet)
    assert loudness(faint.dry, SR) == pytest.approx(-18, abs=0.1)
    assert loudness(faint.wet, SR) == pytest.approx(-18, abs=0.1)


def test_rates_are_told_with_the_edge_of_the_lower_one_and_the_lag_is_at_the_rate_of_dry(
    demo: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    dry, wet = faults.at_rate(demo[0], 160, 147), faults.at_rate(demo[1], 1, 2)
    pair = load(tmp_path, faults.late(dry, 4800), wet, (48000, SR // 2))
    assert severities(pair) == {"rates": "note", "band_edge": "warning", "lag": "note"}
    record = pair.check.record()
    assert record["band_edge_hz"]["wet"] == pytest.approx(11025, rel=0.01)
    assert record["lag_samples"] == pytest.approx(-4800, abs=1.5)
    assert set(record) == {"lag_samples", "polarity", "drift_ppm", "band_edge_hz", "findings"}
    assert all(set(finding) == {"code", "severity", "text", "remedy"} for finding in record["findings"])


def test_what_cannot_be_a_pair_is_refused_with_its_findings(demo: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    dry, wet = demo
    with pytest.raises(PairError, match="give the left channel alone") as error:
        load(tmp_path, torch.cat([dry, -dry]), wet)
    assert error.value.check.refusals[0].code == "unusable"
    with pytest.raises(PairError, match="seem unrelated") as error:
        load(tmp_path, dry, wet.flip(1))
    assert [finding.code for finding in error.value.check.refusals] == ["unrelated"]
    assert severities(load(tmp_path, dry, wet.flip(1), check=False))["unrelated"] == "warning"


def test_flat_tops_count_and_peaks_do_not() -> None:
    t = torch.arange(SR) / SR
    sine = torch.sin(2 * torch.pi * 440 * t)[None]
    assert clipped_share(sine) < 1e-4 and clipped_share((1.5 * sine).clamp(-1, 1)) > 0.2
    assert clipped_share(torch.zeros(2, 10)) == 0 and clipped_share(sine[:, :2]) == 0
