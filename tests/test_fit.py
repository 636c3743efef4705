"""The fit: it improves, keeps the best, continues as if never stopped, and no broken number reaches the knobs."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from afx.effect import Effect, Knobs, flatten
from afx.registry import build
from data.crops import Chunks
from data.files import read_tensors, write_tensors
from engine.device import pick_device
from engine.fit import RETRIES, Fit, FitError, run
from losses import VocalLoss
from losses.vocal import VocalTarget

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


def new_fit(chain: dict | Effect = CHAIN, chunks: Chunks | None = None, **options: object) -> Fit:
    effect = chain if isinstance(chain, Effect) else build(chain, SR)
    knobs = Knobs(effect, torch.Generator().manual_seed(options.get("seed", 0)))
    options = {"loss": VocalLoss(SR), "lr": 0.05, "batch_size": 35, "seed": 0} | options
    return Fit(effect, knobs, options.pop("loss"), chunks or recorded(), **options)


def run_until(fit: Fit, epochs: int, **watchers: Callable) -> str | None:
    fit.epochs = epochs
    return run(fit, **watchers)


def raws_of(fit: Fit) -> dict[str, Tensor]:
    return {name: raw.detach().clone() for name, raw in fit.knobs.state_dict().items()}


def never() -> bool:
    return False


def ignore(terms: dict[str, float]) -> None:
    pass


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Breaking(VocalLoss):
    """The vocal loss, times NaN at some of its calls; `calls` counts them."""

    def __init__(self, *broken_calls: int):
        super().__init__(SR)
        self.broken_calls, self.calls = broken_calls, 0

    def __call__(self, pred: Tensor, target: Tensor | VocalTarget) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().__call__(pred, target)
        self.calls += 1
        return (total * math.nan if self.calls in self.broken_calls else total), terms


class Fragile(Effect):
    """A gain that gives NaN, in its output or only in its gradient, from a bound on."""

    def __init__(self, bound: float, *, gradient_only: bool = False):
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
def test_the_loss_falls(chain: dict):
    fit = new_fit(chain)
    assert run_until(fit, 8, on_step=ignore, stopped=never) is None
    assert fit.step_count == len(fit.losses) == 8
    assert fit.best.loss == min(fit.losses) < 0.9 * fit.losses[0]
    assert fit.undone == []


def test_annealed_steps_rise_fall_and_reach_a_lower_loss_than_adams():
    annealed, adam = (new_fit(lr=0.01, epochs=20, method=method) for method in ("annealed", "adam"))
    rates, groups = [], annealed.optimiser.param_groups
    assert run(annealed, on_step=lambda _: rates.append(groups[1]["lr"]), stopped=never) is None
    run(adam, on_step=ignore, stopped=never)
    assert rates[0] < rates[1] == max(rates) == pytest.approx(0.1) and rates[1:] == sorted(rates[1:], reverse=True)
    assert groups[0]["lr"] == pytest.approx(10 * rates[-1])
    assert annealed.best.loss < adam.best.loss


def test_annealed_moves_what_is_in_decibels_further():
    fit = new_fit(lr=0.01, epochs=1, method="annealed")
    before = raws_of(fit)
    fit.step()
    moved = {name: (raw - before[name]).abs().max().item() for name, raw in raws_of(fit).items()}
    assert moved["peak.gain"] == pytest.approx(10 * moved["direct.pan"], rel=0.01)


def test_the_best_state_is_the_one_before_the_step_with_the_lowest_loss():
    fit = new_fit(lr=1.0)
    before = []
    for _ in range(8):
        before.append(raws_of(fit))
        fit.step()
    lowest = fit.losses.index(min(fit.losses))
    assert 0 < lowest < 7, "the large steps were meant to overshoot"
    assert equal(fit.best.raws, before[lowest])
    values = flatten(fit.take_best())
    assert equal(raws_of(fit), before[lowest])
    assert values["peak.gain"] == before[lowest]["peak.gain"]


def test_the_terms_of_a_step_are_of_the_parameters_before_it():
    fit, again = new_fit(), new_fit()
    first, second = fit.step(), fit.step()
    assert fit.losses == [first["loss"], second["loss"]]
    assert set(first) == {"loss", "mss_lr", "mss_ms", "mldr_lr", "mldr_ms"}
    with torch.no_grad():
        wet = again.chain(again.dry, **again.knobs())
        total, _ = again.loss(wet[..., again.warm_up :], again.target)
    assert first["loss"] == pytest.approx(total.item(), rel=1e-6)


@pytest.mark.parametrize("chain, batch_size", [(CHAIN, 35), (CHAIN, 2), (SPATIAL, 1)], ids=["all", "some", "spatial"])
def test_a_fit_resumed_from_disk_equals_an_uninterrupted_one_bit_for_bit(tmp_path, chain: dict, batch_size: int):
    chunks = recorded(2 if batch_size == 1 else 3)
    whole = new_fit(chain, chunks, batch_size=batch_size)
    run_until(whole, 5, on_step=ignore, stopped=never)
    first = new_fit(chain, chunks, batch_size=batch_size)
    assert run_until(first, 5, on_step=ignore, stopped=StopAfter(4)) == "interrupted"
    write_tensors(tmp_path / "state.ckpt", first.state_dict())
    second = new_fit(chain, chunks, batch_size=batch_size, seed=5)
    second.load_state_dict(read_tensors(tmp_path / "state.ckpt"))
    assert second.step_count == 3
    assert run_until(second, 5, on_step=ignore, stopped=never) is None
    assert second.losses == whole.losses and second.best.loss == whole.best.loss
    assert equal(raws_of(second), raws_of(whole)) and equal(second.best.raws, whole.best.raws)


class StopAfter:
    """Asks to stop at its n-th question."""

    def __init__(self, n: int):
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_a_fit_that_broke_resumes_with_what_it_undid(tmp_path):
    whole = new_fit(loss=Breaking(3, 5))
    run_until(whole, 6, on_step=ignore, stopped=never)
    first = new_fit(loss=Breaking(3))
    run_until(first, 3, on_step=ignore, stopped=never)
    write_tensors(tmp_path / "state.ckpt", first.state_dict())
    # The third step took two calls, so the fifth call of the whole is the first from here on.
    second = new_fit(loss=Breaking(1))
    second.load_state_dict(read_tensors(tmp_path / "state.ckpt"))
    run_until(second, 6, on_step=ignore, stopped=never)
    assert second.losses == whole.losses and equal(raws_of(second), raws_of(whole))
    assert second.undone == whole.undone and len(whole.undone) == 2


def test_a_batch_holds_different_chunks_drawn_by_the_seed():
    chunks = recorded(5)
    fit = new_fit(chunks=chunks, batch_size=3)
    draws = [fit._draw().tolist() for _ in range(20)]
    assert all(len(set(draw)) == 3 for draw in draws) and len(set(map(tuple, draws))) > 5
    assert {i for draw in draws for i in draw} == set(range(5))
    assert [new_fit(chunks=chunks, batch_size=3)._draw().tolist()] == draws[:1]
    assert new_fit(chunks=chunks, batch_size=5)._draw() is None


def test_the_same_seed_gives_the_same_fit_and_another_does_not():
    fits = [new_fit(SPATIAL, recorded(2), batch_size=1, seed=seed) for seed in (3, 3, 4)]
    for fit in fits:
        run_until(fit, 2, on_step=ignore, stopped=never)
    assert fits[0].losses == fits[1].losses != fits[2].losses
    assert equal(raws_of(fits[0]), raws_of(fits[1]))


def test_a_loss_that_breaks_once_is_undone_and_retried_at_half_the_step():
    reference, fit = new_fit(), new_fit(loss=Breaking(4))
    for _ in range(3):
        before = raws_of(reference)
        reference.step()
    for _ in range(4):
        fit.step()
    retried = fit.state_dict()["before"][0]
    for name, whole in raws_of(reference).items():
        half = (whole - before[name]) / 2
        torch.testing.assert_close(retried[name] - before[name], half, rtol=1e-3, atol=1e-6, msg=name)
    assert fit.undone == ["step 3: undone and halved, broken at the loss itself"]
    assert run_until(fit, 6, on_step=ignore, stopped=never) is None
    assert all(map(math.isfinite, fit.losses)) and fit.optimiser.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("gradient_only", [False, True])
def test_steps_into_a_broken_region_are_taken_back_and_the_effect_is_named(gradient_only: bool):
    fit = new_fit(with_fragile(0.9, gradient_only), loud(recorded()), lr=0.4)
    for _ in range(8):
        fit.step()
        assert all(raw.isfinite().all() for raw in fit.knobs.parameters())
        state = fit.optimiser.state_dict()["state"].values()
        assert all(s["exp_avg"].isfinite().all() for s in state)
    assert all(map(math.isfinite, fit.losses))
    assert fit.best.raws["fragile.gain"] < 0.9
    assert fit.undone and fit.losses[-1] < fit.losses[0]
    where = "the gradient of fragile.gain" if gradient_only else r"fragile (gain="
    assert all(f"undone and halved, broken at {where}" in line for line in fit.undone)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_what_stays_broken_ends_the_fit_with_the_effects_name(gradient_only: bool):
    fit = new_fit(with_fragile(-5.0, gradient_only), loud(recorded()))
    where = "the gradient of fragile.gain" if gradient_only else r"fragile \(gain=0.0\)"
    with pytest.raises(FitError, match=rf"^step 0: not finite; it breaks at {where}\. Try a smaller optimiser.lr"):
        fit.step()
    assert fit.losses == [] and fit.best.raws == {}
    assert all(raw.isfinite().all() for raw in fit.knobs.parameters())


def test_a_loss_that_breaks_for_good_ends_the_fit_and_leaves_the_best(tmp_path):
    loss = Breaking(*range(4, 100))
    fit = new_fit(loss=loss)
    with pytest.raises(FitError, match=r"^step 3: not finite, even after a step 1024 times smaller; .*the loss itself"):
        run_until(fit, 9, on_step=ignore, stopped=never)
    assert fit.step_count == 3 and loss.calls == 4 + RETRIES
    assert len(fit.undone) == 1
    assert equal(fit.best.raws, new_fit_best(3))
    assert all(raw.isfinite().all() for raw in fit.knobs.parameters())


def new_fit_best(steps: int) -> dict[str, Tensor]:
    fit = new_fit()
    run_until(fit, steps, on_step=ignore, stopped=never)
    return fit.best.raws


def test_a_chunk_that_is_broken_itself_is_reported_at_the_first_effect():
    chunks = recorded()
    chunks.dry[0, 0, 100] = math.inf
    with pytest.raises(FitError, match=r"it breaks at peak \(gain=0.0, freq=[\d.]+, Q=0.707\)"):
        new_fit(chunks=chunks).step()


def test_the_device_is_what_was_asked_for_or_refused():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device=gpu: allowed are auto, cpu, cuda"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device=cuda: torch finds no GPU here; use device=auto or device=cpu"):
            pick_device("cuda")
