"""Delays of a fraction of a sample, damped or with the gradients of damped ones."""

import torch
from measures import relative_rms

from reknob.afx.functional import echo


def test_a_damped_delay_has_finite_gradients_where_it_underflows() -> None:
    damping = torch.tensor([-0.0083, -0.0083, -0.009, -0.5], dtype=torch.float64, requires_grad=True)
    H = echo.damped_spectrum(torch.full((4,), 5000.3), damping, 4 * 44100)
    (grad,) = torch.autograd.grad((H.real + H.imag).sum(), damping)
    assert grad.isfinite().all()


def test_the_straight_through_delay_has_the_gradients_of_the_damped_one() -> None:
    samples = torch.tensor([100.3, 250.0, 317.8], dtype=torch.float64, requires_grad=True)
    for damping in (torch.tensor(-0.01, requires_grad=True), torch.tensor([-0.3, -0.01, 0.0], requires_grad=True)):
        for length in (400, 401):
            weight = torch.randn(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
            spectrum = echo.damped_spectrum(samples, damping, length)
            damped = torch.autograd.grad((torch.fft.irfft(spectrum, n=length) * weight).sum(), (samples, damping))
            tap = echo.straight_through_delay(samples, damping, length)
            straight = torch.autograd.grad((tap * weight).sum(), (samples, damping))
            assert torch.equal(tap, echo.sinc_delay(samples, length))
            assert all(relative_rms(a, b) < 1e-6 for a, b in zip(straight, damped, strict=True))
