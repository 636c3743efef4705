"""How certain estimates are: distributions, calibration, effects that are left out, the program that adds them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from reknob.afx.registry import build, parse_chain
from reknob.data.audio import write_audio
from reknob.data.bandwidth import band_limit
from reknob.data.conditions import random_band_limit, random_level, round_to_16_bits
from reknob.data.excerpts import Excerpts
from reknob.data.file_lists import list_recordings
from reknob.data.music import generate_music, generate_solo
from reknob.data.recordings import find_recordings
from reknob.estimation import certainty_training, posterior, statistics_cache, trials
from reknob.estimation.calibration import LEVELS, Calibration, evidence, fit_subspace
from reknob.estimation.controls import in_order, no_effect, to_unit
from reknob.estimation.estimate import as_record, estimate_recording
from reknob.estimation.estimator import Estimator, load_estimator, load_mean
from reknob.estimation.judgement import judge, whole_estimates
from reknob.estimation.posterior import Likelihood, Prior
from reknob.estimation.statistics_cache import Processed
from reknob.estimation.trials import Trials
from reknob.formats.preset_document import PresetDocument, raws_of
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors, write_tensors
from scripts import calibrate_estimator, estimate

SR = 44100
CHAINS = ("peq", "peq_comphalf_dist")


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def calibration(n_features: int = 5, n_controls: int = 3, size: int = 3, **changes: float) -> Calibration:
    """A calibration by which nothing is strange and every estimate is kept."""
    reach = torch.tensor(LEVELS)[:, None].expand(-1, n_controls) / 2
    centre, axes, spread = torch.zeros(n_features), torch.eye(n_features)[:, :2], torch.ones(3)
    strange, weights = torch.tensor(changes.get("strange", 1e9)), torch.tensor([1.0, 0.0, 0.0])
    likelihood = torch.eye(size + 1)[:, :size], torch.eye(size)
    return Calibration(*likelihood, reach, centre, axes, spread, strange, weights, torch.tensor(-1e9))


@pytest.mark.parametrize("keys", CHAINS)
def test_no_effect_is_none(keys: str) -> None:
    chain = parse_chain(keys, SR, "synthesis")
    q = torch.rand((3, len(chain.controls())), generator=seeded())
    assert torch.allclose(to_unit(chain, chain.from_unit(q)), q, atol=1e-4)
    x = 0.3 * torch.randn((3, 1, 8000), generator=seeded())
    y = chain(x, **chain.from_unit(no_effect(chain, q)))
    centred = x - x.mean(-1, keepdim=True)
    assert torch.allclose(y / y.std(-1, keepdim=True), centred / centred.std(-1, keepdim=True), atol=1e-4)


@pytest.mark.parametrize("keys", ["peq", "peq,comp,peq"])
def test_peaks_in_order_sound_the_same(keys: str) -> None:
    chain = parse_chain(keys, SR, "synthesis")
    q = torch.rand((40, len(chain.controls())), generator=seeded())
    ordered = in_order(chain, q)
    for equaliser, values in chain.from_unit(ordered).items():
        if equaliser.startswith("peq"):
            freqs = torch.stack([values[f"peak{i}"]["freq"] for i in (1, 2, 3)], 1)
            assert (freqs.diff(dim=1) >= 0).all()
    changed = (ordered != q).any(1)
    assert 0 < changed.sum() < 35
    x = torch.randn((1, 1, 4000), generator=seeded()).expand(40, -1, -1)
    before, after = (chain(x, **chain.from_unit(each)) for each in (q, ordered))
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_calibrated_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "DRAWS", 2**11)  # enough for three controls, and faster
    # The likelihood is far too sure: it takes the errors for a third of what they are.
    drawn, sure = Prior(parse_chain("dist", SR, "synthesis"), SR), Likelihood(torch.eye(4)[:, :3], torch.eye(3) / 0.4)
    q = torch.rand((3000, 3), generator=seeded())
    estimated = drawn.of(q) + 1.2 * torch.randn((3000, 3), generator=seeded(1))
    posteriors = [drawn.posterior(sure, each) for each in estimated]
    places = torch.stack([each.position(one) for each, one in zip(posteriors, q, strict=True)])
    reach = certainty_training.conformal((places[:2000] - 0.5).abs())
    calibrated = replace(calibration(), reach=reach)
    ends = torch.stack([calibrated.interval(each) for each in posteriors[2000:]])
    held = ((ends[:, :, 0] <= q[2000:, None]) & (q[2000:, None] <= ends[:, :, 1])).float().mean(0)
    assert torch.allclose(held, torch.tensor(LEVELS)[:, None].expand(-1, 3), atol=0.06)


def test_a_likelihood_leaves_enough_draws_of_a_long_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "DRAWS", 2**12)
    estimator = Estimator(sfx="peq,comp,peq", afx="peq,comp,peq", encoder="percentiles")
    drawn, q = estimator.prior, torch.rand((400, 36), generator=seeded())
    true = drawn.of(in_order(estimator.synthesis, q))
    estimated = 0.8 * true + 0.4 * true.std(0) * torch.randn(true.shape, generator=seeded(1))
    halves = zip(*(x.split(200) for x in (q, true, estimated)), strict=True)
    known = [certainty_training.Pairs(*half) for half in halves]
    monkeypatch.setattr(certainty_training, "pair", lambda _, statistics: known[statistics])
    monkeypatch.setattr(certainty_training, "features_of", lambda *_: torch.randn((200, 60), generator=seeded()))
    likelihood = certainty_training.calibrate(estimator, 0, 1).likelihood
    assert certainty_training.typical_draws(drawn, likelihood, known[1].estimated) >= certainty_training.ENOUGH


def test_too_few_trials_give_the_whole_range() -> None:
    reach = certainty_training.conformal(torch.full((3, 1), 0.1))
    assert reach[LEVELS.index(0.6)] == pytest.approx(0.1) and reach[LEVELS.index(0.95)] == 0.5


def test_estimates_are_kept_so_that_few_excerpts_of_any_group_become_worse() -> None:
    certainties, off = torch.linspace(0, 1, 600), torch.arange(600) % 5 == 0
    # An estimate helps where it is certain, and hurts below, by as much; it hurts what is untouched.
    helps = certainties.clone()
    helps[off] = 0.0
    mel = torch.stack([torch.ones(600), 1.5 - helps], 1)
    source, usual = torch.arange(600) % 2, torch.ones(600)

    def chosen(signs: tuple[Tensor, Tensor, Tensor], mel: Tensor) -> tuple[Calibration, Tensor]:
        trials = Trials(torch.zeros(600, 3), source, evidence(*signs), mel)
        found = certainty_training.choose_edge(calibration(), trials, off)
        kept = found.certainty(evidence(*signs)) > found.edge
        return found, torch.where(kept, mel[:, 1], mel[:, 0])

    for which, signs in enumerate(
        (
            (certainties - 2.0 * off, usual, usual),
            # Where the logit tells nothing, strange recordings are left alone, or such whose effect is small.
            (usual, 2 - helps, usual),
            (usual, usual, helps.clamp(min=0.02)),
        )
    ):
        found, after = chosen(signs, mel)
        assert found.weights.abs().argmax() == which and (found.weights[which] < 0) == (which == 1)
        assert (after > 1)[~off].float().mean() <= certainty_training.WORSE and after.mean() < 0.9
        assert (after > 1)[off].float().mean() <= certainty_training.CHANGED
    # One data set alone may forbid what helps on average.
    worse = mel.clone()
    worse[source == 1, 1] = 1.3
    assert not (chosen((certainties, usual, usual), worse)[1] < 1).any()


def test_weights_of_certainty_are_those_of_a_logistic_regression() -> None:
    signs, true = torch.randn((20000, 3), generator=seeded()), torch.tensor([1.0, -0.5, 0.25])
    helps = torch.rand(20000, generator=seeded(1)) < (signs @ true + 0.3).sigmoid()

    def direction(weights: Tensor) -> Tensor:
        return weights / weights[:2].norm()  # the penalty shortens all of them

    found = certainty_training.fit_weights(signs, torch.where(helps, -0.2, 0.2))
    assert torch.allclose(direction(found), direction(true), atol=0.04)
    # What hardly changes a recording hardly counts.
    change = torch.where(helps, -0.2, 0.2) * torch.where(signs[:, 2] > 0, 1e-4, 1.0)
    mirrored = torch.where((signs[:, 2] > 0) & (torch.rand(20000, generator=seeded(2)) < 0.5), -change, change)
    assert torch.allclose(
        direction(certainty_training.fit_weights(signs, mirrored))[:2], direction(true)[:2], atol=0.06
    )


def test_few_are_worse_where_the_upper_confidence_bound_is_below_the_share() -> None:
    counts = torch.tensor([[21.0], [22.0], [96.0], [44.0], [45.0]])
    worse, shares = torch.arange(97.0).minimum(counts), torch.tensor([[0.1], [0.1], [0.1], [0.05], [0.05]])
    few = certainty_training.few_worse(worse, counts, shares)
    assert few.sum(1).tolist() == [0, 1, 6, 0, 1]
    for n, k in ((22, 0), (96, 5), (96, 6)):
        bound = stats.binomtest(k, n).proportion_ci(0.8, "exact").high  # two-sided, so one-sided at 90 %
        assert bool(few[counts[:, 0].tolist().index(n), k]) == (bound <= certainty_training.WORSE)


def test_limits_rarely_make_more_than_a_tenth_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of estimates that are worse at random, the less certain the more; limits by the share seen would often fail."""
    monkeypatch.setattr(certainty_training, "fit_weights", lambda *_: torch.tensor([1.0, 0.0, 0.0]))
    failed, kept = [], []
    for seed in range(150):
        generator = seeded(seed)
        certainty, off = torch.rand(300, generator=generator), torch.arange(300) % 4 == 0
        risk = 0.4 * (1 - certainty) * ~off
        worse = torch.rand(300, generator=generator) < risk
        mel = torch.stack([torch.ones(300), torch.where(worse, 1.2, 0.5)], 1)
        signs = evidence(certainty, torch.ones(300), torch.ones(300))
        trials = Trials(torch.zeros(300, 3), torch.zeros(300), signs, mel)
        edge = min(max(float(certainty_training.choose_edge(calibration(), trials, off).edge), 0.0), 1.0)
        kept.append(1 - edge)
        failed.append(0.2 * (1 - edge) ** 2 > certainty_training.WORSE)  # the true share, of all certainties above it
    assert sum(failed) <= 1.5 * certainty_training.RISK * len(failed) and sum(kept) > 0.3 * len(kept)


def test_too_few_trials_keep_nothing() -> None:
    helpful = torch.tensor([1.0, 0.4]).expand(20, -1)
    signs, off = evidence(torch.linspace(0, 1, 20), torch.ones(20), torch.ones(20)), torch.zeros(20, dtype=torch.bool)
    trials = Trials(torch.zeros(20, 3), torch.zeros(20), signs, helpful)
    assert certainty_training.choose_edge(calibration(), trials, off).edge == certainty_training.NEVER


def test_what_is_unlike_the_music_is_strange() -> None:
    features = torch.randn((300, 30), generator=seeded()) * torch.cat([torch.full((4,), 3.0), torch.full((26,), 0.2)])
    centre, axes, spread = fit_subspace(features, 4)
    fitted = replace(calibration(), centre=centre, axes=axes, spread=spread)
    usual, beside = fitted.strangeness(features), fitted.strangeness(features + torch.eye(30)[10] * 3)
    assert usual.mean() == pytest.approx(1, abs=0.1) and (beside > 2 * usual.median()).all()


def certain(estimator: Estimator, **changes: float) -> Estimator:
    """An estimator of a clipper with a calibration."""
    estimator.calibration = calibration(2127, **changes)
    return estimator.eval()


def test_a_strange_recording_has_no_effect_and_the_widest_intervals() -> None:
    features, x = torch.randn((2, 2127), generator=seeded()), torch.randn((1, 9000), generator=seeded())
    usual = certain(Estimator(sfx="dist", afx="dist", encoder="percentiles"))
    q, (known,) = whole_estimates(usual, [features])
    kept = judge(usual, features, q, known, x, SR / 2)
    assert kept.kept and torch.equal(kept.q, q) and kept.remarks == [] and kept.interval is not None
    strange = certain(Estimator(sfx="dist", afx="dist", encoder="percentiles"), strange=0.0)
    judged = judge(strange, features, q, known, x, SR / 2)
    assert not judged.kept and "unlike the recordings" in judged.remarks[0] and judged.wide is not None
    whole = judge(strange, features, q, known, x, SR / 2, whole=True)
    assert whole.kept and "unlike the recordings" in whole.remarks[0]
    torch.testing.assert_close(whole.q, q)
    assert torch.allclose(judged.wide, torch.tensor([[0.025], [0.975]]).expand(-1, 3), atol=1e-4)
    assert torch.allclose(judged.q, no_effect(strange.analysis, judged.q))
    assert set(judged.notes) == set(strange.analysis.controls())


def test_certainty_is_saved_and_older_files_load_without_it(tmp_path: Path) -> None:
    plain = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    plain.save(tmp_path / "old.pt")
    old = load_estimator(tmp_path / "old.pt")[0]
    x = torch.from_numpy(generate_music(3, 3.0, SR)).reshape(1, -1)
    assert old.calibration is None and estimate_recording(old, x, SR).interval is None
    made = certain(plain)
    made.save(tmp_path / "new.pt")
    assert (tmp_path / "new.pt").stat().st_size < (tmp_path / "old.pt").stat().st_size
    again = load_estimator(tmp_path / "new.pt")[0]
    first, second = (estimate_recording(each, x, SR) for each in (made, again))
    assert first.wide is not None and second.wide is not None
    assert torch.allclose(first.q, second.q, atol=5e-3) and torch.allclose(first.wide, second.wide, atol=2e-2)
    assert second.kept and not estimate_recording(again, band_limit(x, SR, 4000.0), SR).kept
    entry = as_record(again, second)["dist.drive"]
    assert entry["low_95"] <= entry["low"] <= entry["high"] <= entry["high_95"]
    content = read_tensors(tmp_path / "new.pt")
    tables = content["calibration"]
    for broken in (5, {}, tables | {"edge": torch.tensor(torch.nan)}, tables | {"reach": torch.zeros(7, 2)}):
        write_tensors(tmp_path / "broken.pt", content | {"calibration": broken})
        with pytest.raises(UsageError, match="broken.pt: its calibration does not fit"):
            load_estimator(tmp_path / "broken.pt")
    write_tensors(tmp_path / "earlier.pt", content | {"certainty": {}})
    with pytest.raises(UsageError, match="earlier.pt: calibrated by an earlier version; run scripts/calibrate"):
        load_estimator(tmp_path / "earlier.pt")


def test_a_band_limit_leaves_nothing_above_it() -> None:
    x = torch.randn((2, 1, SR), generator=seeded())
    limited = band_limit(x, SR, 5000.0, slope=0.02, stop=100.0)
    power = torch.fft.rfft(limited).abs().square().mean((0, 1))
    assert power[5200:].mean() < 1e-9 * power[:4900].mean()
    assert torch.allclose(band_limit(x, SR, 30000.0), x, atol=1e-5)
    some = random_band_limit(x.expand(2, -1, -1).repeat(20, 1, 1), SR, 0.5, seeded())
    assert 8 < (some != x.repeat(20, 1, 1)).flatten(1).any(1).sum() < 33


def test_a_low_level_at_16_bits_adds_its_rounding() -> None:
    x = torch.randn((1, 1, SR), generator=seeded())
    error = round_to_16_bits(x, -40.0) - x
    # A step of 2 / 65535 below a peak that is 40 dB lower; uniform rounding has a power of a twelfth of its square.
    step = float(x.abs().max()) * 100 / 32767
    assert error.square().mean().sqrt() == pytest.approx(step / 12**0.5, rel=0.05)
    assert torch.equal(random_level(x, 0.0, seeded()), x)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three pieces of 3 s."""
    folder = tmp_path_factory.mktemp("pieces")
    for seed in (1, 2, 3):
        write_audio(folder / f"{seed}.wav", torch.from_numpy(generate_music(seed, 3.0, SR)), SR)
    return folder


def test_untouched_excerpts_keep_their_audio_and_say_so(music: Path) -> None:
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    recordings = find_recordings("folder", music, "train", 0.8).recordings
    source = Processed(Excerpts([recordings], 3, 50, 0, seconds=0.8), estimator, 0.0, 1.0)
    batch = source.batch([0], seeded())
    assert torch.equal(batch["dry"][0], source.excerpts[0]["dry"])
    assert torch.allclose(batch["wet"], batch["dry"] - batch["dry"].mean(), atol=1e-3)
    assert certainty_training.untouched(estimator, batch["q"].half().float()).all()
    other_rate = replace(source, estimator=Estimator(sfx="dist", afx="dist", encoder="percentiles", sr=48000))
    keys = [source, replace(source, untouched=0.0), replace(source, untouched=0.0, limited=0.5), other_rate]
    assert len({json.dumps(each.key()) for each in keys}) == 4


def test_a_solo_is_one_player_at_full_level() -> None:
    x = generate_solo(4, 1.0, SR)
    assert x.shape == (1, SR) and abs(x).max() == pytest.approx(1) and (x == generate_solo(4, 1.0, SR)).all()


def test_an_estimator_is_calibrated_by_the_program(
    tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shorter = ((statistics_cache, "PART", 10), (trials, "PART", 5))
    for module, name, number in shorter:
        monkeypatch.setattr(module, name, number)
    Estimator(sfx="dist", afx="dist", encoder="percentiles").save(tmp_path / "plain.pt", seed=3)
    options = "--data=folder --items=10 --seconds=0.5 --valid_items=5 --valid_seconds=2 --coded=0 --test_items=2"
    argv = [f"--checkpoint={tmp_path}/plain.pt", f"--data_dir={music}", *options.split(), f"--log_dir={tmp_path}"]
    assert calibrate_estimator.main([*argv, f"--out={tmp_path}/mine.pt"]) == 0
    told = capsys.readouterr().out
    assert "calibrated on 5 excerpts; they show no certainty at which estimates are safe" in told
    assert "## As estimate.py estimates" in (tmp_path / "mine_results.md").read_text()
    assert (tmp_path / "mine_results.png").is_file()
    made, record = load_estimator(tmp_path / "mine.pt")
    assert made.calibration is not None and record["seed"] == 3 and record["certainty"]["items"] == 10
    found = estimate_recording(made, torch.from_numpy(generate_music(9, 3.0, SR)).reshape(1, -1), SR)
    assert found.wide is not None and not found.kept


def test_the_weights_of_several_files_are_averaged(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.pt" for number in range(2)]
    for number, path in enumerate(files):
        torch.manual_seed(number)
        Estimator(sfx="dist", afx="dist", encoder="percentiles").save(path, seed=number)
    mean, record = load_mean(files)
    weights = [each.controller.state_dict() for each in (load_mean(files[:1])[0], load_mean(files[1:])[0], mean)]
    assert record["seed"] == 1
    for name, weight in weights[2].items():
        assert torch.allclose(weight.float(), (weights[0][name] + weights[1][name]).float() / 2, atol=1e-6)
    Estimator(sfx="peq", afx="peq", encoder="percentiles").save(tmp_path / "peq.pt")
    with pytest.raises(UsageError, match="of another chain"):
        load_mean([*files, tmp_path / "peq.pt"])


def test_several_recordings_are_estimated_and_a_silent_one_does_not_stop_them(
    tmp_path: Path, music: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    checkpoint = tmp_path / "plain.pt"
    Estimator(sfx="dist", afx="dist", encoder="percentiles").save(checkpoint)
    folder = tmp_path / "album"
    folder.mkdir()
    write_audio(folder / "a.wav", torch.zeros(1, SR), SR)
    (folder / "b.wav").write_bytes((music / "1.wav").read_bytes())
    assert list_recordings([folder, folder / "*.wav"]) == [folder / "a.wav", folder / "b.wav"]
    argv = [str(folder), "--checkpoint", str(checkpoint), "--json", str(tmp_path / "all.json")]
    assert estimate.main(argv) == 2
    silent, sound = json.loads((tmp_path / "all.json").read_text())["recordings"]
    monkeypatch.setattr(estimate, "estimate_recording", full)
    assert estimate.main(argv) == 2
    assert "No space left" in json.loads((tmp_path / "all.json").read_text())["recordings"][1]["error"]
    assert "silent" in silent["error"] and set(sound["estimates"][str(checkpoint)]) == {
        *("dist.drive", "dist.offset", "dist.hardness")
    }
    assert estimate.main([*argv[:3], "--dry", str(music / "1.wav")]) == 2
    assert "--dry: of one recording, but 2 are given" in capsys.readouterr().err


def test_a_fit_starts_from_the_bands_of_an_estimate() -> None:
    chain = parse_chain("peq", SR, "analysis")
    q = torch.full((1, 15), 0.9)
    values: dict[str, Tensor] = {
        f"peq.{band}.{name}": value[0]
        for band, each in chain.from_unit(q)["peq"].items()
        for name, value in each.items()
    }
    fitted = build({"peak1": {"effect": "peak", "freq": {"range": [60, 1000], "default": 300}}}, SR)
    raws = raws_of(fitted, PresetDocument("peq", SR, None, values, {}, "estimate"))
    found = {p.name: float(p.mapping.value(raws[f"peak1.{p.name}"])) for p in dict(fitted.parts())["peak1"].params}
    # 1482 Hz lies beyond this chain's range, at whose end, less 1 %, the fit starts.
    assert found["gain"] == pytest.approx(12.0, abs=1e-3) and 950 < found["freq"] < 1000
