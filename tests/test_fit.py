"""The fit: it improves, keeps the best, continues as if never stopped, and no broken number reaches the knobs."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit, Terms, run
from reknob.fitting.optimiser import METHODS, AdamState
from reknob.fitting.track import RETRIES, TrackState
from reknob.losses import VocalLoss
from reknob.runtime.device import pick_device
from reknob.runtime.files import read_tensors, write_tensors

SR = 16000
PEAK = {"effect": "peak", "freq": {"range": [33, 7900]}}
CHAIN = {
    "peak": PEAK,
    "comp": {"effect": "compressor_expander"},
    "direct": {"effect": "panning"},
}
SPATIAL = {
    "peak": PEAK,
    "sends": {
        "effect": "sends",
        "delay": {"effect": "ping_pong_delay", "ir_duration": 2, "surrogate": True, "regularise": True},
        "reverb": {"effect": "fdn", "ir_duration": 1, "bands": 9},
    },
}


def recorded(count: int = 1) -> Chunks:
    """Noise that comes and goes; wet is boosted around 2 kHz, softer and panned."""
    generator = torch.Generator().manual_seed(0)
    swing = torch.sin(torch.arange(round(1.3 * SR)) * (2 * torch.pi * 5 / SR)).square()
    dry = 0.3 * swing * torch.randn(count, 1, len(swing), generator=generator)
    effect = build({"peak": {**PEAK, "gain": {"default": 6.0}}, "pan": {"effect": "panning"}}, SR)
    with torch.no_grad():
        wet = effect(dry, **Knobs(effect)()) * torch.tensor([[0.5], [0.3]])
    return Chunks(dry, wet, round(0.3 * SR), tuple(range(count)))


def new_fit(chain: dict | Effect = CHAIN, *chunks: Chunks, seed: int = 0, epochs: int = 2000, **options: object) -> Fit:
    effect = chain if isinstance(chain, Effect) else build(chain, SR)
    tracks = [TrackState(effect, each, seed=seed, epochs=epochs) for each in chunks or [recorded()]]
    options = {"loss": VocalLoss(SR), "lr": 0.05} | options
    return Fit(effect, tracks, options.pop("loss"), **options)


def never() -> bool:
    return False


def ignore(*_: object) -> None:
    pass


def run_until(fit: Fit, epochs: int, stopped: Callable = never) -> TrackState:
    """Runs to so many epochs, which is not what its rates know of; the first track."""
    for track in fit.tracks:
        track.epochs = epochs
    run(fit, ignore, ignore, stopped)
    return fit.tracks[0]


def step(fit: Fit) -> Terms | None:
    """One step; its terms."""
    fit.step()
    return fit.read_reports()[0][0]


def raws_of(fit: Fit, g: int = 0) -> dict[str, Tensor]:
    return fit.columns.split(fit.state.raws[g].clone())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Breaking(VocalLoss):
    """The vocal loss, times NaN at some of its calls; `calls` counts them."""

    def __init__(self, *broken_calls: int) -> None:
        super().__init__(SR)
        self.broken_calls, self.calls = broken_calls, 0

    def to(self, device: torch.device) -> "Breaking":
        return self

    def weigh(self, terms: Tensor) -> Tensor:
        self.calls += 1
        return super().weigh(terms) * (math.nan if self.calls in self.broken_calls else 1.0)


class Fragile(Effect):
    """A gain that gives NaN, in its output or only in its gradient, from a bound on."""

    def __init__(self, bound: float, *, gradient_only: bool = False) -> None:
        self.params = build(PEAK, SR).params[:1]
        super().__init__(SR)
        self.bound, self.gradient_only = bound, gradient_only

    def forward(self, x: Tensor, *, gain: Tensor) -> Tensor:
        y = x * 10 ** (gain / 20)
        if gain < self.bound:
            return y
        return y + (0 * (gain - gain.detach())).sqrt() if self.gradient_only else y * math.nan


def with_fragile(bound: float, gradient_only: bool = False) -> Effect:
    """A chain with the fragile gain in it, which the louder target pulls upwards."""
    effect = build({"peak": PEAK, "comp": {"effect": "compressor_expander"}}, SR)
    effect.add_module("fragile", Fragile(bound, gradient_only=gradient_only))
    effect.add_module("pan", build({"effect": "panning"}, SR))
    return effect


def loud(chunks: Chunks) -> Chunks:
    return replace(chunks, wet=10 * chunks.wet)


@pytest.mark.parametrize("chain", [CHAIN, SPATIAL], ids=["eq_comp", "spatial"])
def test_the_loss_falls(chain: dict) -> None:
    track = run_until(new_fit(chain), 8)
    assert track.step_count == len(track.losses) == 8
    assert track.best.loss == min(track.losses) < 0.9 * track.losses[0]
    assert track.undone == []


def test_annealed_steps_rise_fall_and_reach_a_lower_loss_than_adams() -> None:
    rates = METHODS["annealed"].rate(torch.arange(20) / 20).tolist()
    assert rates[0] < rates[1] == max(rates) == 1.0 and rates[1:] == sorted(rates[1:], reverse=True)
    annealed, adam = (new_fit(lr=0.01, epochs=20, method=method) for method in ("annealed", "adam"))
    assert annealed.rates.unique().tolist() == pytest.approx([0.1, 1.0])
    assert run_until(annealed, 20).best.loss < run_until(adam, 20).best.loss


def test_adams_steps_are_those_of_torch() -> None:
    raws = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    ours = AdamState(raws, torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3, dtype=torch.float64))
    theirs = raws.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01)
    for k in range(20):
        gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(k))
        ours = METHODS["adam"].move(ours, gradient, torch.full((3, 5), 0.01))
        theirs.grad = gradient
        adam.step()
    torch.testing.assert_close(ours.raws, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_annealed_moves_what_is_in_decibels_further() -> None:
    fit = new_fit(lr=0.01, epochs=1, method="annealed")
    before = raws_of(fit)
    step(fit)
    moved = {name: (raw - before[name]).abs().max().item() for name, raw in raws_of(fit).items()}
    assert moved["peak.gain"] == pytest.approx(10 * moved["direct.pan"], rel=0.01)


def test_the_best_state_is_the_one_before_the_step_with_the_lowest_loss() -> None:
    fit = new_fit(lr=1.0)
    before = []
    for _ in range(8):
        before.append(raws_of(fit))
        step(fit)
    losses, best = fit.tracks[0].losses, fit.tracks[0].best
    lowest = losses.index(min(losses))
    assert 0 < lowest < 7, "the large steps were meant to overshoot"
    assert best.loss == losses[lowest] and equal(best.raws, before[lowest])


def test_the_terms_of_a_step_are_of_the_parameters_before_it() -> None:
    fit, again = new_fit(), new_fit()
    first, second = step(fit), step(fit)
    assert fit.tracks[0].losses == [first["loss"], second["loss"]]
    assert set(first) == {"loss", "mss_lr", "mss_ms", "mldr_lr", "mldr_ms"}
    with torch.no_grad():
        wet = again.chain(again.dry, **again.values(again.state.raws[0]))
        total, _ = again.loss(wet[..., again.warm_up :], again.target)
    assert first["loss"] == pytest.approx(total.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("chain", "batch_size"), [(CHAIN, 35), (CHAIN, 2), (SPATIAL, 1)], ids=["all", "some", "spatial"]
)
def test_a_fit_resumed_from_disk_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, chain: dict, batch_size: int
) -> None:
    chunks = recorded(2 if batch_size == 1 else 3)
    whole = new_fit(chain, chunks, batch_size=batch_size)
    expected = run_until(whole, 5)
    first = run_until(new_fit(chain, chunks, batch_size=batch_size), 5, stopped=StopAfter(4))
    write_tensors(tmp_path / "state.ckpt", first.state_dict())
    again = new_fit(chain, chunks, batch_size=batch_size, seed=5)
    second = resumed(again, tmp_path / "state.ckpt")
    assert second.tracks[0].step_count == 3
    reached = run_until(second, 5)
    assert reached.losses == expected.losses and reached.best.loss == expected.best.loss
    assert equal(raws_of(second), raws_of(whole)) and equal(reached.best.raws, expected.best.raws)


def resumed(fit: Fit, path: Path) -> Fit:
    """The same fit, from what was saved of its track."""
    fit.tracks[0].load_state_dict(read_tensors(path))
    return Fit(fit.chain, fit.tracks, fit.loss, lr=0.05, batch_size=fit.batch_size)


class StopAfter:
    """Asks to stop at its n-th question."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_a_fit_that_broke_resumes_with_what_it_undid(tmp_path: Path) -> None:
    whole = new_fit(loss=Breaking(3, 5))
    expected = run_until(whole, 6)
    first = run_until(new_fit(loss=Breaking(3)), 3)
    write_tensors(tmp_path / "state.ckpt", first.state_dict())
    # The third step took two calls, so the fifth call of the whole is the first from here on.
    second = resumed(new_fit(loss=Breaking(1)), tmp_path / "state.ckpt")
    reached = run_until(second, 6)
    assert reached.losses == expected.losses and equal(raws_of(second), raws_of(whole))
    assert reached.undone == expected.undone and len(expected.undone) == 2


def test_a_fit_stopped_between_a_broken_step_and_its_retry_resumes_with_the_retry(tmp_path: Path) -> None:
    whole = new_fit(loss=Breaking(3))
    expected = run_until(whole, 5)
    first = run_until(new_fit(loss=Breaking(3)), 5, stopped=StopAfter(4))
    assert first.step_count == 2 and len(first.undone) == 1
    write_tensors(tmp_path / "state.ckpt", first.state_dict())
    second = resumed(new_fit(), tmp_path / "state.ckpt")
    assert run_until(second, 5).losses == expected.losses and equal(raws_of(second), raws_of(whole))


def test_a_batch_holds_different_chunks_drawn_by_the_seed() -> None:
    chunks = recorded(5)
    effect = build(CHAIN, SR)
    track = TrackState(effect, chunks)
    draws = [track.draw(3).tolist() for _ in range(20)]
    assert all(len(set(draw)) == 3 for draw in draws) and len(set(map(tuple, draws))) > 5
    assert {i for draw in draws for i in draw} == set(range(5))
    assert [TrackState(effect, chunks).draw(3).tolist()] == draws[:1]
    assert track.draw(5).tolist() == list(range(5))


def test_the_same_seed_gives_the_same_fit_and_another_does_not() -> None:
    fits = [new_fit(SPATIAL, recorded(2), batch_size=1, seed=seed) for seed in (3, 3, 4)]
    losses = [run_until(fit, 2).losses for fit in fits]
    assert losses[0] == losses[1] != losses[2]
    assert equal(raws_of(fits[0]), raws_of(fits[1]))


def test_a_loss_that_breaks_once_is_undone_and_retried_at_half_the_step() -> None:
    reference, fit = new_fit(), new_fit(loss=Breaking(4))
    for _ in range(3):
        before = raws_of(reference)
        step(reference)
    assert [bool(step(fit)) for _ in range(4)] == [True, True, True, False]
    for name, retried in raws_of(fit).items():
        half = (raws_of(reference)[name] - before[name]) / 2
        torch.testing.assert_close(retried - before[name], half, rtol=1e-3, atol=1e-6, msg=name)
    track = run_until(fit, 6)
    assert track.undone == ["step 3: undone and halved, broken at the loss itself"]
    assert all(map(math.isfinite, track.losses)) and fit.state.scale.tolist() == [1.0]


@pytest.mark.parametrize("gradient_only", [False, True])
def test_steps_into_a_broken_region_are_taken_back_and_the_effect_is_named(gradient_only: bool) -> None:
    fit = new_fit(with_fragile(0.9, gradient_only), loud(recorded()), lr=0.4)
    track = fit.tracks[0]
    while track.step_count < 8:
        step(fit)
        assert all(each.isfinite().all() for each in (*fit.state.current, *fit.state.before, fit.state.gradient))
    assert all(map(math.isfinite, track.losses))
    assert track.best.raws["fragile.gain"] < 0.9
    assert track.undone and track.losses[-1] < track.losses[0]
    where = "the gradient of fragile.gain" if gradient_only else r"fragile (gain="
    assert all(f"undone and halved, broken at {where}" in line for line in track.undone)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_what_stays_broken_ends_the_fit_with_the_effects_name(gradient_only: bool) -> None:
    fit = new_fit(with_fragile(-5.0, gradient_only), loud(recorded()))
    where = "the gradient of fragile.gain" if gradient_only else "fragile (gain=0.0)"
    track = run_until(fit, 5)
    assert track.error.startswith(f"step 0: not finite; it breaks at {where}. Try a smaller optimiser.lr")
    assert track.losses == [] and track.best.raws == {}
    assert fit.state.raws.isfinite().all()


def test_a_loss_that_breaks_for_good_ends_the_fit_and_leaves_the_best(tmp_path: Path) -> None:
    loss = Breaking(*range(4, 100))
    fit = new_fit(loss=loss)
    track = run_until(fit, 9)
    assert track.error.startswith("step 3: not finite, even after a step 1024 times smaller; it breaks at the loss")
    assert track.step_count == 3 and loss.calls == 4 + RETRIES
    assert len(track.undone) == 1
    assert equal(track.best.raws, run_until(new_fit(), 3).best.raws)
    assert fit.state.raws.isfinite().all()


def test_a_chunk_that_is_broken_itself_is_reported_at_the_first_effect() -> None:
    chunks = recorded()
    chunks.dry[0, 0, 100] = math.inf
    error = run_until(new_fit(CHAIN, chunks), 1).error
    assert re.search(r"it breaks at peak \(gain=0.0, freq=[\d.]+, Q=0.707\)", error)


def test_the_device_is_what_was_asked_for_or_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device=gpu: allowed are auto, cpu, cuda"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device=cuda: torch finds no GPU here; use device=auto or device=cpu"):
            pick_device("cuda")


class Recorded:
    """What stands for a recorded step: the same function of the same buffers at every call."""

    def __init__(self, function: Callable, *inputs: Tensor) -> None:
        self.function, self.buffers = function, [tensor.clone() for tensor in inputs]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for own, given in zip(self.buffers, inputs, strict=True):
            own.copy_(given)
        return [tensor.clone() for tensor in self.function(*self.buffers)]


@pytest.mark.parametrize("batch_size", [35, 2])
def test_a_recorded_step_gives_what_the_step_gives(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    monkeypatch.setattr("reknob.fitting.fit.Graph", Recorded)
    chunks = recorded(3)
    plain, graphed = (new_fit(CHAIN, chunks, batch_size=batch_size, graphed=graphed) for graphed in (False, True))
    assert run_until(graphed, 4).losses == run_until(plain, 4).losses
    assert equal(raws_of(graphed), raws_of(plain))


def test_a_device_whose_reports_come_late_takes_no_step_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = new_fit(epochs=3)
    monkeypatch.setattr(fit, "device", SimpleNamespace(type="cuda"))
    track = run_until(fit, 3)
    assert track.step_count == 3 == fit.state.steps.item()


def test_a_checkpoint_holds_its_own_track_and_no_other() -> None:
    fit = new_fit(CHAIN, recorded(), recorded(), recorded())
    run_until(fit, 1)
    raws = fit.tracks[1].state.raws
    assert raws.untyped_storage().nbytes() == raws.nbytes


def test_the_phases_of_a_noise_reverb_stay_as_its_seed_drew_them() -> None:
    fit = new_fit({"reverb": {"effect": "noise_reverb", "ir_length": 2000}})
    before = raws_of(fit)
    step(fit)
    after = raws_of(fit)
    assert torch.equal(before["reverb.phase"], after["reverb.phase"])
    assert not torch.isclose(before["reverb.level"], after["reverb.level"]).all()
