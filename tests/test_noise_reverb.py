"""The noise reverb: phases that belong to its configuration, and gradients at the ends of its ranges."""

import pytest
import torch

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build

SR = 44100


def make(**options: int) -> Effect:
    return build({"effect": "noise_reverb", "ir_length": 3000, **options}, SR).train()


def drawn(effect: Effect, seed: int) -> Knobs:
    return Knobs(effect, torch.Generator().manual_seed(seed))


def noise() -> torch.Tensor:
    return 0.1 * torch.randn(1, 2, 4001, generator=torch.Generator().manual_seed(0))


def test_the_phases_belong_to_the_configuration() -> None:
    first, again, other = drawn(make(), 1), drawn(make(seed=0), 2), drawn(make(seed=1), 1)
    assert torch.equal(first.phase, again.phase)
    assert not torch.isclose(first.phase, other.phase).all()
    assert first.phase.min() >= 0 and first.phase.max() < 2 * torch.pi


def test_the_phases_are_not_trained() -> None:
    effect = make()
    knobs = drawn(effect, 1)
    effect(noise(), **knobs()).square().sum().backward()
    assert knobs.level.grad.abs().sum() > 0
    assert knobs.phase.grad is None


@pytest.mark.parametrize("name", ["level", "decay"])
def test_gradients_are_finite_where_the_noise_is_denormal(name: str) -> None:
    # One item alone, as numbers that fill no vector of the processor are computed another way.
    effect = make()
    for value in (-20.0, -30.0, -60.0, -95.0, -1e4, 0.0):
        values = {key: v.detach().requires_grad_() for key, v in drawn(effect, 1)().items()}
        values[name] = torch.full_like(values[name], value, requires_grad=True)
        effect(noise(), **values).square().mean().backward()
        assert all(v.grad is None or v.grad.isfinite().all() for v in values.values()), value
