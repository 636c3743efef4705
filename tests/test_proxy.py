"""The neural proxy of the compressor: how close it is, its gradients, its weights, and the program that trains it."""

from pathlib import Path

import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.dynamics import Compressor
from reknob.afx.functional.level import centre_and_peak
from reknob.afx.proxy import FRAME, WEIGHTS, ProxyCompressor
from reknob.afx.registry import parse_chain
from reknob.data.music import generate_music
from scripts import train_proxy

SR = 44100
CLOSE_ESR = 0.004
TINY = ["--steps", "2", "--batch_size", "2", "--seconds", "0.5", "--pieces", "2", "--valid_pieces", "2"]


def music(count: int, seconds: float, sr: int = SR) -> Tensor:
    """Pieces (count, 1, T) from seeds that the weights were not trained on."""
    pieces = [torch.from_numpy(generate_music(2_000_000 + seed, seconds, sr)) for seed in range(count)]
    return centre_and_peak(torch.stack(pieces))


def settings(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(seed))


def esr(pred: Tensor, target: Tensor) -> Tensor:
    """Error-to-signal ratio of every item."""
    return (pred - target).square().sum((1, 2)) / target.square().sum((1, 2))


@pytest.mark.parametrize("sr", [44100, 48000])
def test_the_shipped_proxy_is_close_to_the_compressor_on_music_it_has_not_heard(sr: int):
    proxy, exact = ProxyCompressor(sr).eval(), Compressor(sr)
    x, values = music(8, 4.0, sr), exact.from_unit(settings(8))
    target = exact(x, **values)
    assert esr(proxy(x, **values), target).mean() < CLOSE_ESR
    # The bound can fail: a network that is not trained breaks it.
    torch.manual_seed(0)
    assert esr(ProxyCompressor(sr, weights=None).eval()(x, **values), target).mean() > CLOSE_ESR


def test_the_hybrid_is_the_network_in_training_and_the_compressor_in_evaluation():
    x = music(2, 1.0)
    values = Compressor(SR).from_unit(settings(2))
    hybrid, full = parse_chain("comphalf", SR, "analysis").comp, parse_chain("compfull", SR, "analysis").comp
    assert torch.equal(hybrid.eval()(x, **values), Compressor(SR)(x, **values))
    learnt = hybrid.train()(x, **values)
    assert not torch.equal(learnt, Compressor(SR)(x, **values))
    assert torch.equal(learnt, full.train()(x, **values)) and torch.equal(learnt, full.eval()(x, **values))


def gradients(effect: Compressor, x: Tensor, q: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of every item's squared error to a target, by settings in [0, 1] and by the gains of bands of the audio."""
    spectrum, freqs = torch.fft.rfft(x), torch.fft.rfftfreq(x.shape[-1], 1 / SR)
    edges = {"low": (0, 200), "middle": (200, 2000), "high": (2000, SR)}
    bands = {n: torch.fft.irfft(spectrum * ((freqs >= a) & (freqs < b)), x.shape[-1]) for n, (a, b) in edges.items()}
    x, q = x.clone().requires_grad_(), q.clone().requires_grad_()
    loss = (effect(x, **effect.from_unit(q)) - target).square().mean((1, 2)).sum()
    by_audio, by_setting = torch.autograd.grad(loss, (x, q))
    assert by_audio.isfinite().all() and by_setting.isfinite().all()
    settings_of = dict(zip((p.name for p in effect.params), by_setting.unbind(1), strict=True))
    return settings_of | {name: (by_audio * band).sum((1, 2)) for name, band in bands.items()}


def test_gradients_point_where_those_of_the_compressor_point():
    proxy, exact = ProxyCompressor(SR).train(), Compressor(SR)
    x, q = music(8, 2.0), 0.1 + 0.8 * settings(8, seed=1)
    target = exact(x, **exact.from_unit(settings(8, seed=2)))
    ours, truths = gradients(proxy, x, q, target), gradients(exact, x, q, target)
    for name, truth in truths.items():
        assert torch.cosine_similarity(ours[name], truth, 0) > 0.95, name
        assert 0.7 < ours[name].norm() / truth.norm() < 1.4, name


def test_gradients_reach_every_weight_of_a_network_in_training():
    torch.manual_seed(0)
    proxy = ProxyCompressor(SR, weights=None)
    proxy.network.requires_grad_(True)
    proxy(music(2, 0.5), **proxy.from_unit(settings(2))).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in proxy.network.parameters())


def test_silence_stays_silence_and_has_finite_gradients():
    proxy = ProxyCompressor(SR)
    x = torch.zeros(2, 1, 1000, requires_grad=True)
    q = settings(2).requires_grad_()
    y = proxy(x, **proxy.from_unit(q))
    assert not y.any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (x, q)))


def test_a_batch_is_its_items_and_one_setting_serves_all():
    proxy = ProxyCompressor(SR)
    x, values = music(3, 1.0), proxy.from_unit(settings(3))
    batch = proxy(x, **values)
    for i in range(3):
        alone = proxy(x[i : i + 1], **{name: v[i] for name, v in values.items()})
        assert relative_rms(alone, batch[i : i + 1]) < 1e-5
    shared = {name: v[0] for name, v in values.items()}
    assert relative_rms(proxy(x, **shared), proxy(x, **{n: v.expand(3) for n, v in shared.items()})) < 1e-5


def test_channels_share_the_gain_of_the_loudest():
    proxy = ProxyCompressor(SR)
    x, values = music(1, 1.0), proxy.from_unit(settings(1))
    y = proxy(torch.cat([0.5 * x, x], 1), **values)
    assert relative_rms(y[:, 1:], proxy(x, **values)) < 1e-5 and relative_rms(2 * y[:, :1], y[:, 1:]) < 1e-5


def test_what_comes_later_changes_nothing_before_its_frame():
    proxy = ProxyCompressor(SR)
    x, values = music(2, 1.0), proxy.from_unit(settings(2))
    cut = 1000 * FRAME + 7
    changed = torch.cat([x[..., :cut], x[..., cut:].flip(-1)], -1)
    first = slice(0, cut - 7)
    assert relative_rms(proxy(changed, **values)[..., first], proxy(x, **values)[..., first]) < 1e-5
    assert relative_rms(proxy(changed, **values), proxy(x, **values)) > 0.1


def test_narrower_ranges_of_an_instance_change_nothing_but_its_controls():
    x, values = music(1, 0.5), ProxyCompressor(SR).from_unit(torch.full((1, 6), 0.5))
    narrow = ProxyCompressor(SR, attack=dict(default=8, range=[5, 20]), release=dict(default=80, range=[60, 100]))
    assert torch.equal(narrow(x, **values), ProxyCompressor(SR)(x, **values))


def test_the_weights_are_small_and_their_card_lies_beside_them():
    assert WEIGHTS.stat().st_size < 1e6
    assert "MRSTFT" in WEIGHTS.with_suffix(".md").read_text()


def test_other_weights_and_other_rates_are_refused_in_one_line(tmp_path: Path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    for name in ("other.pt", "broken.pt", "absent.pt"):
        with pytest.raises(ValueError, match=rf"^\S*{name}: .*train_proxy.py[^\n]*$"):
            ProxyCompressor(SR, weights=tmp_path / name)
    with pytest.raises(ValueError, match=r"^the proxy .* 44100 or 48000 Hz, not 22050[^\n]*$"):
        ProxyCompressor(22050)


def test_training_writes_weights_that_load_and_a_card(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "mine.pt"
    assert train_proxy.main([*TINY, "--out", str(out)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"mine.pt", "mine.md"}
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    x, values = music(1, 0.5), ProxyCompressor(SR).from_unit(settings(1))
    mine = ProxyCompressor(SR, weights=out)
    assert not any(p.requires_grad for p in mine.network.parameters())
    assert not torch.equal(mine(x, **values), ProxyCompressor(SR)(x, **values))


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--steps", "0"], "argument --steps: 0: give 1 or more"),
        (["--out", "nowhere/mine.pt"], "nowhere/mine.pt: there is no folder nowhere; choose another"),
        (["--measure", "absent.wav"], "absent.wav does not exist: give the path of an audio file"),
        (["--data_dir", "nowhere"], "nowhere"),
    ],
)
def test_training_refuses_bad_input_in_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture):
    assert train_proxy.main([*TINY, "--out", "mine.pt", *argv]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_proxy.py: ") and said in error
