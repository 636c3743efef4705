"""The percentile encoder, and training on cached statistics."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from measures import relative_rms

from reknob.data.music import generate_music
from reknob.encoders.percentiles import (
    CHANGES,
    LEVELS,
    N_CHANGES,
    Percentiles,
    percentiles,
    pooled,
    spectral_statistics,
    wave_statistics,
)
from reknob.estimation import statistics_cache
from reknob.estimation.estimator import Estimator, load_estimator
from reknob.estimation.scoring import score
from reknob.estimation.statistics_cache import Processed, statistics_of
from reknob.estimation.statistics_run import StatisticsSettings, StatisticsTask
from reknob.estimation.statistics_training import EqualiserObjective, Objective, ParameterObjective, StatisticsSet
from reknob.estimation.trainer import Trainer, open_fabric
from reknob.losses import MelLoss
from scripts import train_on_statistics

SR = 44100


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    return torch.from_numpy(np.stack([generate_music(seed, 5.0, SR) for seed in (1, 2, 3, 4)]))


@pytest.fixture(scope="module")
def dry(music: torch.Tensor) -> StatisticsSet:
    encoder = Percentiles(SR)
    return StatisticsSet(*encoder.statistics(music), torch.empty(len(music), 0))


def equaliser(chain: str = "peq") -> EqualiserObjective:
    torch.manual_seed(0)
    return EqualiserObjective(Estimator(sfx=chain, afx=chain, encoder="percentiles"))


def test_percentiles_are_those_of_numpy() -> None:
    x = torch.randn(3, 1001, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(x.numpy(), LEVELS, axis=-1).T
    assert np.allclose(percentiles(x, LEVELS), expected, atol=1e-6)


def test_frames_are_pooled_by_their_mean_power() -> None:
    z = torch.randn(2, 3, 18)
    expected = z[..., :16].exp().square().unflatten(-1, (4, 4)).mean(-1).sqrt().log()
    assert torch.allclose(pooled(z), expected, atol=1e-6)
    assert pooled(z[..., :3]).shape == (2, 3, 1)


def test_a_gain_of_a_bin_is_added_to_its_levels_and_leaves_its_changes() -> None:
    z, gain = torch.randn(2, 113, 60).double(), torch.randn(2, 113).double()
    before, after = spectral_statistics(z), spectral_statistics(z + gain[..., None])
    assert torch.allclose(after[:, :N_CHANGES], before[:, :N_CHANGES], atol=1e-6)
    assert torch.allclose(after[:, N_CHANGES:], before[:, N_CHANGES:] + gain[:, None], atol=1e-12)


def test_steady_levels_and_two_strikes_are_described_as_they_are() -> None:
    z = torch.zeros(1, 113, 40)
    z[..., 10], z[..., 30] = 2.0, 1.0
    statistics = spectral_statistics(z)[0, :, 5]
    assert torch.allclose(statistics[: len(CHANGES)], torch.tensor([-1.0, 0.0, 0.0, 0.0, 1.0]))
    assert torch.allclose(statistics[N_CHANGES:][: len(LEVELS)], torch.tensor([0.0, 0, 0, 0, 0, 0, 1.0]))
    mean, at_onsets, _, before_onsets, power = statistics[N_CHANGES + len(LEVELS) :]
    assert mean == pytest.approx(3 / 40) and at_onsets == pytest.approx(1.5) and before_onsets == 0
    assert power == pytest.approx(np.log((38 + np.exp(4) + np.exp(2)) / 40) / 2)


def test_clipping_and_compression_show_in_the_waveform(music: torch.Tensor) -> None:
    estimator = Estimator(sfx="comp_dist", afx="comp_dist", encoder="percentiles")
    chain, q = estimator.synthesis, torch.full((len(music), 9), 0.5)
    q[:, 6:] = torch.tensor([0.0, 0.0, 1.0])  # no drive
    clean = wave_statistics(chain(music, **chain.from_unit(q)))
    q[:, 6] = 1.0  # drive of 20 dB into a hard clipper
    driven = wave_statistics(chain(music, **chain.from_unit(q)))
    near = slice(12, 15)
    assert (driven[:, near] > clean[:, near] + 1).all()
    assert (driven[:, 0] > clean[:, 0]).all()  # louder at the same peak


def test_an_equaliser_acts_on_statistics_as_it_does_on_sound(music: torch.Tensor, dry: StatisticsSet) -> None:
    objective = equaliser()
    estimator = objective.estimator
    q = torch.rand(len(music), 15, generator=torch.Generator().manual_seed(3))
    wet = estimator.synthesis(music, **estimator.synthesis.from_unit(q))
    of_wet, _ = estimator.controller.encoder.statistics(wet)
    of_gains = dry.spectral.clone()
    of_gains[:, N_CHANGES:] += objective.gains(q)[0][:, None]
    audible = dry.spectral[:, N_CHANGES:] > dry.spectral[:, -1:].amax(-1, keepdim=True) - 7
    # Up to the level, on which the estimator does not depend.
    difference = (of_wet - of_gains)[:, N_CHANGES:]
    difference -= torch.stack([d[a].median() for d, a in zip(difference, audible, strict=True)])[:, None, None]
    assert difference[audible].abs().mean() < 0.03 and difference[audible].abs().quantile(0.99) < 0.3


def test_the_loss_is_that_of_the_rendered_sounds(music: torch.Tensor, dry: StatisticsSet) -> None:
    objective = equaliser()
    estimator, mel = objective.estimator.eval(), MelLoss(SR)
    q = torch.rand(len(music), 15, generator=torch.Generator().manual_seed(0))  # as the objective draws them
    with torch.no_grad():
        loss = objective(dry, torch.Generator().manual_seed(0)).item()
        estimate = objective.estimate(dry, objective.gains(q)[0])
        sounds = [estimator.render(music, controls) for controls in (estimate, q)]
    assert loss == pytest.approx(mel(*sounds).item(), rel=0.06)


def losses_of(objective: Objective, sets: list[StatisticsSet], batch_size: int, folder: Path) -> list[float]:
    """The mean training loss of every three of 60 steps."""
    settings, losses = StatisticsSettings(steps=60, batch_size=batch_size, out=folder / "a.pt"), []
    task = StatisticsTask(objective, {"train": sets, "valid": sets}, settings)
    fabric = open_fabric(torch.device("cpu"))

    def show(scalars: Mapping[str, float], step: int) -> None:
        assert step == 3 * len(losses) + 3
        losses.append(scalars["train/loss"])

    Trainer(task, fabric, folder / "last.ckpt", settings, show).train()
    return losses


def test_an_equaliser_is_learnt_and_the_waveform_left_out(dry: StatisticsSet, tmp_path: Path) -> None:
    objective = equaliser("geq")
    losses = losses_of(objective, [dry, dry], 32, tmp_path)
    assert len(losses) == 20 and np.mean(losses[-2:]) < 0.7 * np.mean(losses[:2])
    controller = objective.estimator.controller
    assert not controller.mlp[0].weight[:, -controller.encoder.n_wave :].any() and not controller.training


def test_settings_are_learnt_from_processed_sounds(music: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    estimator = Estimator(sfx="dist", afx="dist", encoder="percentiles")
    q = torch.rand(len(music), 3)
    with torch.no_grad():
        statistics = statistics_of(estimator, estimator.synthesis(music, **estimator.synthesis.from_unit(q)), q)
    assert statistics.spectral.shape == (4, 18, 113) and statistics.wave.shape == (4, 93)
    assert torch.equal(statistics.q, q)
    losses = losses_of(ParameterObjective(estimator), [statistics], 16, tmp_path)
    assert np.mean(losses[-2:]) < 0.5 * np.mean(losses[:2])


def test_an_equaliser_alone_has_no_other_settings(dry: StatisticsSet) -> None:
    objective = ParameterObjective(Estimator(sfx="geq", afx="geq", encoder="percentiles"))
    assert objective(dry._replace(q=torch.rand(4, 10)), torch.Generator()).isfinite()


def test_an_excerpt_may_be_as_short_as_the_slowest_change_and_no_shorter(music: torch.Tensor) -> None:
    encoder = Percentiles(SR).eval()
    assert encoder(music[..., :16512]).isfinite().all()
    with pytest.raises(ValueError, match="an excerpt of 16511 samples is too short; give 16512 or more"):
        encoder(music[..., :16511])


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ("comp", "comp: not an equaliser alone"),
        ("dist", "dist: not an equaliser alone"),
        ("peq_comp", "peq_comp: not an equaliser alone"),
        ("peq,peq", "peq,peq: not an equaliser alone"),
    ],
)
def test_only_an_equaliser_adds_gains(chain: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        equaliser(chain)


@pytest.mark.parametrize("chain", ["peq_dist", "dist,peq"])
def test_an_equaliser_in_a_chain_is_judged_by_what_it_does(chain: str, dry: StatisticsSet) -> None:
    torch.manual_seed(0)
    estimator = Estimator(sfx=chain, afx=chain, encoder="percentiles")
    objective, estimate = ParameterObjective(estimator), torch.rand(4, 18)
    estimator.controller.mlp.forward = lambda z: estimate
    names = estimator.synthesis.controls()

    def loss(**changes: float) -> float:
        q = estimate.clone()
        for name, change in changes.items():
            q[:, [i for i, control in enumerate(names) if control.endswith(f".{name}")]] += change
        return objective(dry._replace(q=q), torch.Generator()).item()

    assert loss() == 0
    assert loss(drive=0.1) == pytest.approx(10 * 0.1**2 / 3, rel=1e-4)
    estimate[:, [names.index(f"peq.{band}.gain") for band in ("peak1", "peak2", "peak3")]] = 0.5
    # The quality of a band without gain does nothing.
    estimate[:, [i for i, control in enumerate(names) if "shelf.gain" in control]] = 0.5
    assert loss(Q=0.1) < 1e-6 and loss(gain=0.1) > 0.01


def test_only_the_percentile_encoder_is_trained_on_statistics() -> None:
    with pytest.raises(ValueError, match="--encoder time: only percentiles is trained on statistics"):
        ParameterObjective(Estimator(sfx="peq", afx="peq", encoder="time"))


TINY = "--seconds=2 --pieces=2 --steps=20 --batch_size=8 --valid_items=4 --test_items=2 --workers=0 --windows=2".split()


@pytest.mark.parametrize(("chain", "more"), [("peq", []), ("comphalf", ["--items=8"])])
def test_the_program_trains_and_repeats_itself(
    chain: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*TINY, *more, f"--chain={chain}", f"--log_dir={tmp_path}"]
    for name in ("a.pt", "b.pt"):
        assert train_on_statistics.main([*argv, f"--out={tmp_path / name}"]) == 0
    assert "validation loss" in capsys.readouterr().out
    (first, record), (second, _) = (load_estimator(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert first.settings == {"sfx": chain, "afx": chain, "encoder": "percentiles", "sr": SR}
    assert record["steps"] == 20 and record["valid_loss"] > 0
    results = (tmp_path / "a_results.md").read_text()
    assert results == (tmp_path / "b_results.md").read_text().replace("b_results", "a_results")
    assert f"`{chain}` → `{chain}`" in results and "2 excerpts" in results
    assert (tmp_path / "a_results.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "a.pt").unlink()
    assert train_on_statistics.main([*argv, f"--out={tmp_path / 'a.pt'}"]) == 2
    assert "a_results.md: exists; give another name, or --overwrite to replace it" in capsys.readouterr().err
    x = 0.1 * torch.randn(1, 1, SR, generator=torch.Generator().manual_seed(0))
    assert relative_rms(first(x), second(x)) == 0


def test_an_interrupted_computation_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    argv = [*TINY, "--chain=dist", "--items=20", f"--log_dir={tmp_path}", f"--out={tmp_path / 'dist.pt'}"]
    monkeypatch.setattr(statistics_cache, "PART", 10)
    computed: list[int] = []
    compute = Processed.__getitem__

    def counted(source: Processed, number: int) -> StatisticsSet:
        computed.append(number)
        if len(computed) == 2:
            raise KeyboardInterrupt
        return compute(source, number)

    monkeypatch.setattr(Processed, "__getitem__", counted)
    assert train_on_statistics.main(argv) == 130 and "the same command continues" in capsys.readouterr().err
    assert train_on_statistics.main(argv) == 0 and computed == [0, 1, 1, 0]  # the last is of the validation
    assert load_estimator(tmp_path / "dist.pt")[1]["items"] == 20


def test_an_equalisers_estimator_begins_that_of_a_longer_chain(tmp_path: Path) -> None:
    argv = [*TINY, f"--log_dir={tmp_path}"]
    assert train_on_statistics.main([*argv, f"--out={tmp_path / 'peq.pt'}"]) == 0
    longer = ["--chain=peq_comp", "--items=8", "--coded=0.5", "--lr=1e-9", f"--init={tmp_path / 'peq.pt'}"]
    assert train_on_statistics.main([*argv, *longer, f"--out={tmp_path / 'peq_comp.pt'}"]) == 0
    first, second = (load_estimator(tmp_path / name)[0].controller.mlp[0].weight for name in ("peq.pt", "peq_comp.pt"))
    assert torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--chain=loud"], "loud"),
        (["--chain=compsimple"], "compsimple"),
        (["--out=missing/estimator.pt"], "missing/estimator.pt: there is no folder missing; choose another"),
        (["--coded=0.5"], "--coded 0.5 is of processed excerpts; give --items, or leave it out"),
        (["--limited=0.5"], "--limited 0.5 is of processed excerpts; give --items, or leave it out"),
        (["--data=folder"], "data=folder takes data_dir=FOLDER"),
        (["--data=folder,generated", "--data_dir=here"], "--data names 2 data sets and --data_dir 1 folders"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_on_statistics.main([*TINY, *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_on_statistics.py: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "checkpoints").glob("*.pt")), ids=lambda p: p.stem)
def test_the_projects_estimators_beat_no_effect_and_random_parameters(path: Path, music: torch.Tensor) -> None:
    estimator, _ = load_estimator(path)
    assert estimator.settings["sfx"] == path.stem and path.with_suffix(".md").is_file()
    dry = music.repeat(2, 1, 1)
    q = torch.rand(len(dry), len(estimator.synthesis.controls()), generator=torch.Generator().manual_seed(5))
    scores = score(estimator, [{"dry": dry, "q": q}]).scores
    assert np.mean(scores["estimate"]["mel"]) < 0.8 * np.mean(scores["no effect"]["mel"])
    assert np.mean(scores["estimate"]["params"]) < 0.8 * np.mean(scores["random parameters"]["params"])
