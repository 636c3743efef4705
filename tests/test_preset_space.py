"""Densities of presets, draws under conditions, traits in words, and the commands on them."""

import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from reknob.afx.effect import Effect, Knobs, flatten, nest
from reknob.afx.registry import build
from reknob.analysis.character import traits, words
from reknob.analysis.drawing import Condition
from reknob.analysis.prior import Prior, fit_prior, held_out
from reknob.formats.presets import Preset, load_presets, write_presets
from reknob.runtime.errors import UsageError
from scripts import presets as program

SR = 16000
CONFIG = {
    "low_shelf": {"effect": "low_shelf"},
    "high_shelf": {"effect": "high_shelf", "freq": {"default": 4000, "range": [750, 7000]}},
    "comp": {"effect": "compressor_expander"},
}


@pytest.fixture(scope="module")
def chain() -> Effect:
    return build(CONFIG, SR).eval()


@pytest.fixture(scope="module")
def folder(chain: Effect, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = []
    for i in range(20):
        generator = torch.Generator().manual_seed(i)
        raws = {k: v + torch.randn(v.shape, generator=generator) for k, v in Knobs(chain).state_dict().items()}
        made.append(Preset(i, f"song{i}/dry.wav", f"song{i}/wet.wav", 0, raws))
    path = tmp_path_factory.mktemp("sets") / "set"
    write_presets(path, made, chain, chain=CONFIG, rejected={})
    return path


def test_log_densities_equal_scipys_and_samples_have_their_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.tril(torch.randn(3, 3, generator=generator, dtype=torch.float64)) + 2 * torch.eye(3)
    mean, at = torch.arange(3, dtype=torch.float64), torch.randn(5, 3, generator=generator)
    shape = (factor @ factor.mT).numpy()
    gaussian, student = Prior(mean, factor), Prior(mean, factor, 8.0)
    expected = stats.multivariate_normal(mean.numpy(), shape).logpdf(at.numpy())
    assert gaussian.log_density(at).tolist() == pytest.approx(expected.tolist())
    expected = stats.multivariate_t(mean.numpy(), shape, 8).logpdf(at.numpy())
    assert student.log_density(at).tolist() == pytest.approx(expected.tolist())
    drawn = student.sample(20_000, generator).double()
    assert (drawn.mean(0) - mean).abs().max() < 0.15
    # The covariance of a t is its scale matrix times ν / (ν - 2).
    assert drawn.mT.cov().diagonal().tolist() == pytest.approx((shape.diagonal() * 8 / 6).tolist(), rel=0.1)


def test_heavy_tails_are_more_likely_under_a_t_than_under_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = 1 + 3 * (torch.rand(60, 1, generator=generator) > 0.8)
    rows = torch.randn(60, 10, generator=generator) * sizes
    assert held_out(rows, "student").mean() > held_out(rows, "gaussian").mean() + 1
    with pytest.raises(UsageError, match="unknown prior"):
        fit_prior(rows, "flow")
    with pytest.raises(UsageError, match="two or more"):
        fit_prior(rows[:1])


def test_traits_follow_the_parameters_they_are_named_after(chain: Effect) -> None:
    values = flatten(Knobs(chain).requires_grad_(False)())
    base = traits(chain, nest(values))
    assert set(base) == {"brightness", "warmth", "density"}
    bright = traits(chain, nest(values | {"high_shelf.gain": values["high_shelf.gain"] + 6}))
    assert bright["brightness"] > base["brightness"] + 3
    assert words(base, bright).startswith("brighter (+")
    assert words(bright, base).startswith("darker (-")
    assert words(base, base) == "much the same"
    squeezed = values | {"comp.cmp_ratio": torch.tensor(8.0), "comp.cmp_threshold": torch.tensor(-35.0)}
    assert "denser" in words(base, traits(chain, nest(squeezed)))


def test_draws_meet_their_conditions(folder: Path, chain: Effect, tmp_path: Path) -> None:
    where = ["--where", "brightness=1:", "--where", "comp.cmp_threshold=-25:-5"]
    assert program.main(["prior", str(folder), str(tmp_path / "drawn"), "--count", "4", *where]) == 0
    for preset in load_presets(tmp_path / "drawn", chain):
        values = preset.values(chain)
        assert traits(chain, values)["brightness"] >= 1
        assert -25 <= float(flatten(values)["comp.cmp_threshold"]) <= -5


@pytest.mark.parametrize("text", ["reverb_time", "reverb_time=1", "=1:2", "x=2:1", "x=a:b"])
def test_conditions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give NAME=LOW:HIGH"):
        Condition.parse(text)


def test_draws_that_cannot_be_had_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["prior", str(folder), str(tmp_path / "none"), "--where"]
    for condition, message in {
        "comp.cmp_threshold=500:": "widen the conditions",
        "nothing=1:2": "unknown parameter or trait",
        "reverb_time=1:2": "no such trait",
    }.items():
        assert program.main([*line, condition]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_commands_map_describe_and_rank(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["map", str(folder), str(tmp_path / "map.svg")]) == 0
    content = json.loads((tmp_path / "map.json").read_text())
    assert len(content["presets"]) == 20 and len(content["axes"]) == 2
    # Whitened: a mean of 0 and a variance of 1 along each axis.
    assert sum(p["x"] ** 2 for p in content["presets"]) / 19 == pytest.approx(1)
    assert "<svg" in (tmp_path / "map.svg").read_text()
    assert program.main(["map", str(folder), str(tmp_path / "map.txt")]) == 2
    capsys.readouterr()
    assert program.main(["describe", str(folder), "--count", "2"]) == 0
    assert "PC2" in capsys.readouterr().out
    assert program.main(["describe", str(folder), "3"]) == 0
    assert "brightness" in capsys.readouterr().out
    assert program.main(["density", str(folder), "--count", "3"]) == 0
    assert "student" in capsys.readouterr().out
