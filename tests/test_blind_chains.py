"""The chains of blind estimation: their words, and what holds for every effect in them."""

import pytest
import torch
from measures import relative_rms
from torch import Tensor

from reknob.afx.clipper import Clipper
from reknob.afx.effect import flatten
from reknob.afx.functional.level import centre_and_peak
from reknob.afx.registry import EFFECTS, KEYS, parse_chain

SR = 44100
# compfull is a network everywhere, with tests of its own.
EXACT = [key for key in KEYS if key != "compfull"]
every_key = pytest.mark.parametrize("key", EXACT)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def controls(key: str, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    n = len(parse_chain(key, SR, "analysis").controls())
    return torch.rand(batch, n, generator=torch.Generator().manual_seed(1), dtype=dtype)


def run(key: str, x: Tensor, q: Tensor) -> Tensor:
    chain = parse_chain(key, SR, "analysis").eval()
    return chain(x, **chain.from_unit(q))


@every_key
def test_a_batch_equals_its_items(key: str) -> None:
    x, q = noise(3, 1, 5000), controls(key)
    together = run(key, x, q)
    assert together.shape == x.shape and together.dtype == x.dtype
    for i in range(3):
        assert relative_rms(together[i], run(key, x[i : i + 1], q[i : i + 1])) < 1e-6


@every_key
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_output_and_gradients_are_finite_at_both_ends_of_every_range(key: str, end: float) -> None:
    q = torch.full_like(controls(key, 2), end).requires_grad_()
    x = noise(2, 1, 4000).requires_grad_()
    y = run(key, x, q)
    y.square().mean().backward()
    assert all(t.isfinite().all() for t in (y, q.grad, x.grad))


@every_key
def test_gradients_are_those_of_a_small_step(key: str) -> None:
    q = (0.2 + 0.6 * controls(key, 1, torch.float64)).requires_grad_()
    x, w = noise(1, 1, 3000).double(), noise(1, 1, 3000, seed=2).double()
    (run(key, x, q) * w).sum().backward()
    for i in range(min(q.shape[1], 6)):
        step = torch.zeros_like(q)
        step[0, i] = 1e-6
        with torch.no_grad():
            slope = ((run(key, x, q + step) - run(key, x, q - step)) * w).sum() / 2e-6
        assert q.grad[0, i].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-6 * q.grad.abs().max().item())


@every_key
def test_silence_stays_finite_and_harms_no_neighbour(key: str) -> None:
    x = noise(2, 1, 3000)
    x[0] = 0
    q = controls(key, 2).requires_grad_()
    y = run(key, x, q)
    y.sum().backward()
    assert y.isfinite().all() and q.grad.isfinite().all()
    assert relative_rms(y[1], run(key, x[1:], q[1:])) < 1e-6


def test_every_effect_of_a_chain_is_fed_a_centred_signal_with_a_peak_of_one() -> None:
    chain = parse_chain("peq_dist", SR, "synthesis")
    x, q = noise(2, 1, 3000) + 0.1, controls("peq_dist", 2)
    values = chain.from_unit(q)
    y = x
    for name, band in chain.peq.parts():
        y = band(centre_and_peak(y), **values["peq"][name])
    assert torch.equal(chain(x, **values), chain.dist(centre_and_peak(y), **values["dist"]))


def test_a_chain_runs_in_the_published_order_whatever_the_order_of_its_words() -> None:
    names = [name for name, _ in parse_chain("dist_comphalf_peq", SR, "analysis").parts()]
    assert names == ["peq", "comp", "dist"]


def test_words_joined_by_commas_run_as_they_are_written_and_may_repeat() -> None:
    chain = parse_chain("dist,peq,comphalf,peq", SR, "analysis").eval()
    assert [name for name, _ in chain.parts()] == ["dist", "peq", "comp", "peq2"]
    assert len(set(chain.controls())) == len(chain.controls()) == 3 + 15 + 6 + 15
    x, q = noise(2, 1, 3000), controls("dist,peq,comphalf,peq", 2)
    y = x
    for word, columns in zip(("dist", "peq", "comphalf", "peq"), q.split([3, 15, 6, 15], 1), strict=True):
        y = run(word, y, columns)
    assert torch.equal(chain(x, **chain.from_unit(q)), y)


def test_a_registered_effect_with_ranges_is_a_word_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFECTS, "saturation", Clipper)
    for side in ("analysis", "synthesis"):
        assert [name for name, _ in parse_chain("saturation,low_pass", SR, side).parts()] == ["saturation", "low_pass"]
    monkeypatch.setitem(EFFECTS, "peq2", Clipper)
    with pytest.raises(ValueError, match="'peq2,peq,peq': two effects would be called 'peq2'"):
        parse_chain("peq2,peq,peq", SR, "analysis")
    monkeypatch.setitem(EFFECTS, "forward", Clipper)
    with pytest.raises(ValueError, match="an effect cannot be called 'forward'"):
        parse_chain("forward", SR, "analysis")


def test_both_sides_of_a_pair_of_chains_have_the_same_controls() -> None:
    synthesis, analysis = parse_chain("peq_compfull", SR, "synthesis"), parse_chain("peq_comphalf", SR, "analysis")
    assert synthesis.controls() == analysis.controls()
    assert len(analysis.controls()) == 21
    q = controls("peq_comphalf", 1)
    for a, b in zip(flatten(synthesis.from_unit(q)).values(), flatten(analysis.from_unit(q)).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("keys", "side", "message"),
    [
        ("peq_compresor", "synthesis", "unknown effect 'compresor' in 'peq_compresor'; did you mean 'compressor'"),
        ("", "analysis", "unknown effect ''"),
        ("peq_taylor", "synthesis", "'taylor' in 'peq_taylor' has no synthesis form; those that have: geq, peq"),
        ("peq_peq", "analysis", "'peq_peq' holds 'peq' twice; words joined by , may repeat"),
        ("peq_comp,dist", "analysis", "unknown effect 'peq_comp' .* join all words by _ or all by ,"),
        (",".join(17 * ["dist"]), "analysis", "a chain of 17 words; at most 16 are allowed"),
        ("peq,fir", "analysis", "a controller needs a range for every parameter; without one: fir.taps"),
        ("panning", "synthesis", "'panning' ends in stereo"),
        ("compfull_comphalf", "synthesis", "'compfull_comphalf' holds 'comp' twice"),
    ],
)
def test_a_wrong_word_is_refused_with_what_is_known(keys: str, side: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_chain(keys, SR, side)


def test_channels_of_the_compressor_are_linked() -> None:
    quiet, loud = noise(1, 1, 4000) * 0.01, noise(1, 1, 4000, seed=3)
    comp = parse_chain("compfull", SR, "synthesis").comp
    values = comp.from_unit(torch.full((1, 6), 0.5))
    gain = comp(loud, **values) / loud
    assert relative_rms(comp(torch.cat([quiet, loud], 1), **values)[:, :1], quiet * gain) < 0.05


@pytest.mark.parametrize("key", ["geq", "peq"])
def test_coefficients_are_computed_where_the_gains_are(key: str) -> None:
    chain = parse_chain(key, SR, "analysis").to("meta")
    values = chain.from_unit(controls(key).to("meta"))
    (equaliser,), (bands,) = chain.children(), values.values()
    for name, band in equaliser.named_children():
        assert band.coefs(**bands[name]).device.type == "meta"
