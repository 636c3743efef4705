"""Fits with every registered loss: the adapter, the program, its records, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml
from takes import QUICK, SR, mixed, take, write_pair
from test_fit import new_fit, run_until

import main
from reknob.fitting.settings import FitSettings, fit_losses
from reknob.losses import LOSSES, FitLoss, ScalarLoss, build_fit_loss, build_loss
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json


def stereo(seed: int = 0) -> torch.Tensor:
    return mixed(take(1.5, seed))[None].double()


def l1(pred: torch.Tensor, target: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    return weight * (pred - target).abs().mean()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l1", l1)


@pytest.mark.parametrize("name", fit_losses())
def test_a_fit_takes_every_registered_loss_of_stereo_audio(name: str) -> None:
    loss, plain = build_fit_loss({"name": name}, SR), build_loss({"name": name}, SR)
    assert isinstance(loss, FitLoss)
    pred, target = stereo().requires_grad_(), stereo(1)
    total = loss.weigh(loss.terms(pred, loss.prepare(target), torch.ones(1, 1)))
    expected = plain(pred, target)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.terms(pred, target, torch.ones(1, 1)).shape == (1, len(loss.term_names))
    gradients = torch.autograd.grad(total.sum(), pred, retain_graph=True), torch.autograd.grad(expected, pred)
    assert torch.allclose(*(g[0] for g in gradients), rtol=1e-5, atol=1e-9)
    both = torch.cat([target, pred.detach()])
    again = loss.terms(pred, loss.prepare(both).select(torch.tensor([0])), torch.ones(1, 1))
    assert torch.allclose(loss.weigh(again), total.detach(), rtol=1e-6)


@pytest.mark.parametrize("name", fit_losses())
def test_the_shortest_signals_that_a_loss_compares_are_compared(name: str) -> None:
    loss = build_fit_loss({"name": name}, SR)
    pred, target = (stereo(seed)[..., : loss.least_samples] for seed in (0, 1))
    assert loss.terms(pred, target, torch.ones(1, 1)).isfinite().all()


def test_the_adapter_fits_and_refuses_what_is_no_scalar_and_more_than_a_batch(registered: None) -> None:
    fit = new_fit(loss=build_fit_loss({"name": "l1", "weight": 2.0}, SR))
    before = fit.tracks[0].chunks
    track = run_until(fit, 5)
    assert track.error is None and track.best.loss < track.losses[0]
    assert before is track.chunks
    with pytest.raises(UsageError, match="loss 'l1' compares one batch at a time, 2 given"):
        fit.loss.terms(stereo(), stereo(), torch.ones(2, 1))
    broken = ScalarLoss(lambda pred, target: pred - target, "broken")
    with pytest.raises(UsageError, match=r"loss 'broken' returned shape \(1, 2, 66150\); a loss returns a scalar"):
        broken.terms(stereo(), stereo(), torch.ones(1, 1))
    with pytest.raises(UsageError, match="loss 'params' does not compare stereo audio"):
        build_fit_loss({"name": "params"}, SR)


def test_a_loss_with_state_moves_and_prepares_for_the_adapter() -> None:
    class Stateful(torch.nn.Module):
        least_samples = 7

        def forward(self, pred: torch.Tensor, target: dict | torch.Tensor) -> torch.Tensor:
            return (pred - target).square().mean()

        def prepare(self, target: torch.Tensor) -> dict:
            return {"target": target}  # which cannot be indexed by chunks: the loss gets the target itself

    loss = ScalarLoss(Stateful(), "stateful").to(torch.device("cpu"))
    assert loss.least_samples == 7
    assert loss.terms(stereo(), loss.prepare(stereo(1)), torch.ones(1, 1)).item() > 0


def test_a_program_fits_with_a_loss_by_name_and_its_records_have_its_terms(
    tmp_path: Path, registered: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*write_pair(tmp_path), *QUICK]
    assert main.main([*arguments, "loss.name=mrstft", "loss.options.w_log_mag=0.5"]) == 0
    run = tmp_path / "logs" / "song" / "run_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["loss"]["name"] == "mrstft" and config["loss"]["options"] == {"w_log_mag": 0.5}
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tags = accumulator.EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {tag for tag in tags if tag.startswith("loss/")} == {"loss/loss", "loss/lowest", "loss/mrstft"}
    assert len(read_json(run / "meta.json")["losses"]) == 3
    resumed = [*arguments, "loss.name=mrstft", "loss.options.w_log_mag=0.5", "resume=true"]
    assert main.main([*resumed, "epochs=4"]) == 0
    assert main.main([*arguments, "loss.name=l1", "loss.options.weight=3", "epochs=5", "resume=true"]) == 2
    assert "was begun with other settings (loss)" in capsys.readouterr().err
    assert main.main([*arguments, "loss.name=l1", "loss.options.weight=3"]) == 0


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    arguments = [*write_pair(tmp_path), *QUICK]
    assert main.main(arguments) == 0
    path = tmp_path / "logs" / "song" / "run_0" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["loss"].pop("name") == "vocal" and config["loss"].pop("options") == {}
    path.write_text(yaml.safe_dump(config))
    assert main.main([*arguments, "resume=true", "epochs=4"]) == 0
    assert len(read_json(path.parent / "meta.json")["losses"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss.name=mse"], "loss.name=mse: unknown loss of audio; known: vocal, mel, mrstft, mldr, mss"),
        (["loss.name=params"], "loss.name=params: unknown loss of audio; known: vocal, mel, mrstft, mldr, mss"),
        (["loss.name=mrstft", "loss.options.hops=[3]"], "unknown options ['hops'] of loss 'mrstft'; known: fft_sizes"),
        (["loss.name=mrstft", "loss.options.fft_sizes=5"], "options {'fft_sizes': 5} of loss 'mrstft': object of type"),
        (["loss.options.w_sc=1"], "loss.options={'w_sc': 1}: the vocal loss takes loss.weights and loss.mldr_rows"),
    ],
)
def test_losses_and_options_that_are_unknown_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main.main([*write_pair(tmp_path), *QUICK, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_settings_of_a_group_that_hold_a_tree_are_read_from_files_and_flags(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("loss: {name: mrstft, options: {fft_sizes: [512], hop_sizes: [128]}}\n")
    flags = [f"--config={tmp_path / 'config.yaml'}", "loss.options.win_lengths=[512]"]
    settings = main.read_settings(flags)
    assert isinstance(settings, FitSettings)
    assert settings.loss.options == {"fft_sizes": [512], "hop_sizes": [128], "win_lengths": [512]}
    assert settings.build_loss().term_names == ("mrstft",)
