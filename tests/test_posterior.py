"""The joint posterior of an estimate's settings: where it says they lie, and which of them it takes."""

import pytest
import torch
from torch import Tensor

from reknob.afx.registry import parse_chain
from reknob.estimation.posterior import Likelihood, Posterior, Prior, log_density, settle

SR = 44100


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def likelihood(size: int, noise: float = 1.0) -> Likelihood:
    """That of estimates with independent errors of a standard deviation `noise` in `size` coordinates."""
    return Likelihood(torch.eye(size + 1)[:, :size], torch.eye(size) / noise)


def prior(keys: str) -> Prior:
    return Prior(parse_chain(keys, SR, "synthesis"), SR)


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_settings_lie_where_the_posterior_says(noise: float) -> None:
    drawn, exact = prior("dist"), likelihood(3, noise)
    q = torch.rand((500, 3), generator=seeded())
    estimated = drawn.of(q) + noise * torch.randn((500, 3), generator=seeded(1))
    posteriors = [drawn.posterior(exact, each) for each in estimated]
    places = torch.stack([each.position(one) for each, one in zip(posteriors, q, strict=True)])
    tenths = torch.tensor([0.1, 0.5, 0.9]).double()
    assert torch.allclose(places.quantile(tenths, 0), tenths[:, None].expand(-1, 3), atol=0.07)
    shares = torch.tensor([[0.16] * 3, [0.84] * 3])
    ends = torch.stack([each.quantiles(shares) for each in posteriors])
    held = ((ends[:, 0] <= q) & (q <= ends[:, 1])).float().mean(0)
    assert torch.allclose(held, torch.tensor(0.68), atol=0.07)
    # The mean has the smallest squared error; what is known shrinks with the noise.
    error = (torch.stack([each.mean() for each in posteriors]) - q).square().mean()
    assert error < (0.05 if noise < 1 else 0.084) and error < (estimated.sigmoid() - q).square().mean()
    density = log_density(drawn, exact, drawn.of(q), estimated).mean()
    assert density > 1 if noise < 1 else 0 < density < 0.2
    information = torch.stack([each.information() for each in posteriors]).mean(0)
    assert (information > 0.3).all() if noise < 1 else (information < 0.06).all()


def test_nothing_heard_leaves_the_prior() -> None:
    drawn = prior("peq")
    nothing = drawn.without_evidence()
    q = torch.rand((1, 15), generator=seeded())
    assert torch.allclose(nothing.information(), torch.zeros(15), atol=1e-3) and nothing.processed == 0
    shares = torch.tensor([0.2, 0.5, 0.9])[:, None].expand(-1, 15)
    assert torch.allclose(nothing.quantiles(shares), drawn.draws.quantile(shares[:, 0], 0), atol=1e-3)
    assert torch.allclose(nothing.position(q[0]).float(), (drawn.draws < q).float().mean(0), atol=1e-3)


def test_settings_of_one_posterior_sound_more_alike_than_their_single_distributions_say() -> None:
    drawn, q = prior("peq"), torch.rand((1, 15), generator=seeded())
    posterior = drawn.posterior(likelihood(16, 0.3), drawn.of(q)[0])
    together = drawn.draws[torch.multinomial(posterior.weights, 400, replacement=True, generator=seeded())]
    apart = torch.stack([column[torch.randperm(400, generator=seeded(i))] for i, column in enumerate(together.T)], 1)
    errors = [(drawn.of(each) - drawn.of(q)).abs().mean() for each in (together, apart, drawn.draws)]
    assert errors[0] < 0.8 * errors[1] < errors[2]


def test_of_settings_that_sound_like_the_estimate_the_most_expected_are_taken() -> None:
    drawn, q = prior("peq"), torch.rand((20, 15), generator=seeded())
    posteriors = [drawn.posterior(likelihood(16, 0.5), each) for each in drawn.of(q)]
    found, means = settle(posteriors), torch.stack([each.mean() for each in posteriors])

    def apart(a: Tensor, b: Tensor) -> float:
        return float((drawn.of(a) - drawn.of(b)).abs().mean())

    assert apart(found, q) < 0.4 * apart(means, q) < 0.4 * apart(torch.full_like(q, 0.5), q)
    assert (found - means).square().mean() < 0.6 * (q - means).square().mean()


def test_the_range_of_responses_holds_the_true_one() -> None:
    drawn, q = prior("peq"), torch.rand((30, 15), generator=seeded())
    estimated = drawn.of(q) + 0.8 * torch.randn((30, 16), generator=seeded(1))
    posteriors = [drawn.posterior(likelihood(16, 0.8), each) for each in estimated]
    freqs = drawn.of.freqs
    ends = torch.stack([each.response_range(one[None], freqs) for each, one in zip(posteriors, q, strict=True)])
    true = 20 * drawn.of.equalisers[0].gains(q, freqs) / torch.tensor(10.0).log()
    held = ((ends[:, 0] <= true) & (true <= ends[:, 1])).float().mean()
    assert 0.6 < held < 0.76, held
    assert prior("dist").without_evidence().response_range(torch.rand(1, 3), freqs) is None


def test_filters_belong_to_the_response_of_a_chain() -> None:
    drawn, q = prior("high_pass,peq"), torch.rand((200, 17), generator=seeded())
    freqs = drawn.of.freqs
    both = torch.stack([each.gains(q, freqs) for each in drawn.of.equalisers]).sum(0)
    assert len(drawn.of.equalisers) == 2 and (both[:, 0] < both[:, 4] - 1).float().mean() > 0.8, "lows are cut"
    ends = torch.stack([drawn.without_evidence().response_range(one[None], freqs) for one in q])
    true = 20 * both / torch.tensor(10.0).log()
    held = ((ends[:, 0] <= true) & (true <= ends[:, 1])).float().mean()
    assert 0.6 < held < 0.76, held


def test_a_few_draws_by_chance_tell_nothing() -> None:
    drawn = prior("peq")
    chance = torch.zeros((40, len(drawn.draws)), dtype=torch.float64)
    for number, row in enumerate(chance):
        row[torch.randperm(len(row), generator=seeded(number))[:60]] = 1 / 60
    posteriors = [Posterior(drawn, row, 0.0, drawn.coordinates[0]) for row in chance]
    assert posteriors[0].effective_draws == pytest.approx(60)
    assert torch.stack([each.information() for each in posteriors]).mean().abs() < 0.01


def test_samples_are_those_of_the_weights() -> None:
    drawn = prior("dist")
    posterior = drawn.posterior(likelihood(3, 0.5), drawn.coordinates[7])
    sample = posterior.sample(2000)
    assert torch.allclose(sample.mean(0), posterior.mean(), atol=0.02) and torch.equal(sample, posterior.sample(2000))


def test_a_likelihood_is_that_of_its_estimates() -> None:
    true = torch.randn((5000, 2), generator=seeded())
    slope, noise = torch.tensor([[0.5, 0.1], [0.0, 0.4]]), torch.tensor([[0.3, 0.0], [0.1, 0.2]])
    estimated = true @ slope + 0.7 + torch.randn((5000, 2), generator=seeded(1)) @ noise
    fitted = Likelihood.fit(true, estimated)
    assert torch.allclose(fitted.mean, torch.cat([slope, torch.tensor([[0.7, 0.7]])]), atol=0.02)
    assert torch.allclose(torch.linalg.inv(fitted.root @ fitted.root.T), noise.T @ noise, atol=0.01)
    assert torch.allclose(fitted.log(true[:9], estimated[:9]).diag(), fitted.log_pairs(true, estimated)[:9], atol=1e-3)


def test_effects_are_likelier_where_they_were_applied() -> None:
    drawn, exact = prior("dist"), likelihood(3, 0.5)
    processed = [drawn.posterior(exact, each).processed for each in drawn.coordinates[5000:5050]]
    left = [drawn.posterior(exact, each).processed for each in drawn.unprocessed[:50]]
    assert sum(each > 0 for each in processed) > 40 and sum(each < 0 for each in left) > 45
