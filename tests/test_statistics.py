"""Statistics of preset sets: hand-made and generated numbers, other libraries, and what is published of the sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reknob.afx.registry import build
from reknob.analysis.features import Features, effect_labels, load_sets
from reknob.analysis.statistics import (
    NormalityTest,
    area_under,
    components_needed,
    group_correlation,
    henze_zirkler,
    principal_components,
    rank_correlation,
    ranked_groups,
    royston,
    strongest_pairs,
    variance_shares,
)

SHARED = Path(__file__).parents[2] / "shared" / "presets"
needs_published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published preset sets are not here")
# Length and width of sepals, length and width of petals of 50 flowers of Iris setosa, in mm (R. A. Fisher, 1936).
IRIS = (
    np.array(
        """
    51 49 47 46 50 54 46 50 44 49 54 48 48 43 58 57 54 51 57 51 54 51 46 51 48
    50 50 52 52 47 48 54 52 55 49 50 55 49 44 51 50 45 44 50 51 48 51 46 53 50
    35 30 32 31 36 39 34 34 29 31 37 34 30 30 40 44 39 35 38 38 34 37 36 33 34
    30 34 35 34 32 31 34 41 42 31 32 35 36 30 34 35 23 32 35 38 30 38 32 37 33
    14 14 13 15 14 17 14 15 14 15 15 16 14 11 12 15 13 14 17 15 17 15 10 17 19
    16 16 15 14 16 16 15 15 14 15 12 13 14 13 15 13 13 13 16 19 14 16 14 15 14
    2 2 2 2 2 4 3 2 2 1 2 2 1 1 2 4 4 3 3 3 2 4 2 5 2
    2 4 2 2 2 2 4 1 2 2 2 2 1 2 2 3 3 2 6 4 3 2 2 2 2
    """.split(),
        dtype=float,
    )
    .reshape(4, 50)
    .T
)


def normal(rows: int, columns: int, seed: int) -> np.ndarray:
    """Normal rows whose columns are correlated."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)) @ rng.standard_normal((columns, columns)) + 3.0


def test_components_are_orthonormal_and_explain_the_covariance() -> None:
    rows = normal(40, 6, 0)
    pc = principal_components(rows)
    np.testing.assert_allclose(pc.axes @ pc.axes.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose((pc.axes.T * pc.deviations**2) @ pc.axes, np.cov(rows.T), rtol=1e-10)
    np.testing.assert_allclose(np.cov(pc.whiten(rows).T), np.eye(6), atol=1e-12)
    np.testing.assert_allclose(variance_shares(rows, pc), pc.deviations**2 / np.sum(pc.deviations**2), rtol=1e-10)


def test_few_rows_have_as_many_components_as_they_span() -> None:
    rows = normal(5, 9, 1)
    assert principal_components(rows).axes.shape == (4, 9)
    assert principal_components(np.concatenate([rows, rows])).axes.shape == (4, 9)
    with pytest.raises(ValueError, match="two or more presets; given: 1"):
        principal_components(rows[:1])


def test_another_set_is_measured_about_the_mean_of_the_components() -> None:
    pc = principal_components(np.array([[-2.0, 1.0], [2.0, 1.0], [0.0, 0.0], [0.0, 2.0]]))
    assert variance_shares(np.array([[3.0, 2.0]]), pc) == pytest.approx([0.9, 0.1])


def test_components_are_counted_up_to_a_level_and_the_curve_begins_at_nought() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    assert [components_needed(shares, level) for level in (0.4, 0.6, 0.99, 1.0)] == [1, 2, 3, 3]
    assert area_under(shares) == pytest.approx((0.25 + 0.65 + 0.9) / 3)


def test_rank_correlation_is_spearmans_and_a_constant_correlates_with_nothing() -> None:
    rows = normal(30, 4, 2).round(1)
    np.testing.assert_allclose(rank_correlation(rows), stats.spearmanr(rows).statistic, atol=1e-12)
    rows[:, 1] = 7.0
    assert not rank_correlation(rows)[1].any()


def test_groups_are_compared_over_pairs_of_different_columns() -> None:
    correlation = np.array([[1, 0.5, -0.2, 0.9], [0.5, 1, 0.4, 0.9], [-0.2, 0.4, 1, 0.9], [0.9, 0.9, 0.9, 1]])
    labels, matrix = group_correlation(correlation, ["A", "A", "B", ""])
    assert labels == ["A", "B"]
    np.testing.assert_allclose(matrix, [[0.5, 0.3], [0.3, np.nan]])
    assert ranked_groups(labels, matrix) == [("A–A", 0.5), ("A–B", pytest.approx(0.3))]


def test_the_strongest_pairs_lie_between_different_arrays() -> None:
    correlation = np.array([[1, -0.9, 0.1], [-0.9, 1, -0.4], [0.1, -0.4, 1]])
    assert strongest_pairs(correlation, ["g[0]", "g[1]", "freq"], 5) == [(1, 2), (0, 2)]
    assert strongest_pairs(correlation, ["a", "b", "freq"], 1) == [(0, 1)]


@pytest.mark.parametrize("test", [royston, henze_zirkler])
@pytest.mark.parametrize(("rows", "columns"), [(20, 5), (70, 17), (365, 74)])
def test_normal_rows_are_taken_for_normal(test: Callable[[np.ndarray], NormalityTest], rows: int, columns: int) -> None:
    p = np.array([test(normal(rows, columns, seed)).p for seed in range(20)])
    assert np.sum(p < 0.05) <= 4 and np.median(p) > 0.2


@pytest.mark.parametrize("test", [royston, henze_zirkler])
def test_rows_that_are_not_normal_are_found_out(test: Callable[[np.ndarray], NormalityTest]) -> None:
    rng = np.random.default_rng(0)
    assert test(rng.exponential(size=(100, 5))).p < 1e-10
    assert test(rng.standard_t(2, size=(365, 10))).p < 1e-10


def test_henze_and_zirklers_test_agrees_with_others_on_the_iris() -> None:
    # The R package MVN prints HZ = 0.9488453, p = 0.04995356.
    assert henze_zirkler(IRIS) == pytest.approx((0.9488453, 0.04995356), rel=1e-6)


@pytest.mark.parametrize("test", [royston, henze_zirkler])
def test_signs_and_scales_of_columns_do_not_matter(test: Callable[[np.ndarray], NormalityTest]) -> None:
    rows = normal(60, 4, 3)
    assert test(rows * [-1, 3, 0.1, -20]) == pytest.approx(test(rows), rel=1e-6)


def test_rows_that_no_test_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 12 to 2000 rows"):
        royston(normal(11, 3, 0))
    for rows in (normal(5, 5, 0), np.repeat(normal(20, 1, 0), 2, axis=1)):
        with pytest.raises(ValueError, match="no regular covariance"):
            henze_zirkler(rows)


def test_effects_are_labelled_by_kind_and_numbered_where_there_are_several() -> None:
    chain = build(
        {
            "a": {"effect": "peak"},
            "b": {"effect": "peak"},
            "pan": {"effect": "panning"},
            "out": {"effect": "sends", "d": {"effect": "ping_pong_delay"}, "r": {"effect": "fdn"}},
        },
        44100,
    )
    columns = ["a.gain", "b.Q", "pan.pan", "out.d_to_r", "out.d.odd_pan.pan", "out.r.b[0,1]", "out.direct.pan"]
    assert effect_labels(chain, columns) == ["PK1", "PK2", "", "SEND", "DLY", "FDN", ""]


@pytest.fixture(scope="module")
def published() -> dict[str, Features]:
    return load_sets(SHARED / "internal", SHARED / "medleydb")


@needs_published
def test_the_published_components_are_found(published: dict[str, Features]) -> None:
    rows = {name: features.rows for name, features in published.items()}
    pc = {name: principal_components(r) for name, r in rows.items()}
    shares = [
        variance_shares(rows[name], pc[base])
        for name, base in (("internal", "internal"), ("medleydb", "medleydb"), ("medleydb", "internal"))
    ]
    assert [f"{100 * components_needed(s) / len(s):.2f}" for s in shares] == ["59.23", "65.22", "76.92"]
    assert [f"{100 * area_under(s):.1f}" for s in shares] == ["91.0", "88.5", "87.6"]
    assert [f"{100 * x:.2f}" for x in shares[0][:8]] == "13.86 9.72 8.22 7.18 6.37 5.19 3.81 3.44".split()
    assert [f"{100 * x:.1f}" for x in shares[1][:4]] == "20.0 13.3 8.0 7.1".split()
    white = pc["internal"].whiten(rows["internal"])[:, :74]
    assert royston(white).p < 1e-16 and henze_zirkler(white).p < 1e-16


@needs_published
def test_the_published_correlations_are_found(published: dict[str, Features]) -> None:
    internal, medleydb = published.values()
    correlation = rank_correlation(internal.rows)
    ranked = ranked_groups(*group_correlation(correlation, internal.effects))
    assert len(ranked) == 54
    told = "PK2–HS 0.222, PK2–PK2 0.208, HP–HP 0.200, LS–HP 0.198, COMP–COMP 0.184, DLY–DLY 0.176, SEND–DLY 0.151, "
    told += "HS–COMP 0.151, PK1–PK2 0.145, PK1–PK1 0.144, FDN–FDN 0.138, DLY–FDN 0.112"
    assert set(told.split(", ")) <= {f"{pair} {value:.3f}" for pair, value in ranked}
    pairs = strongest_pairs(correlation, internal.columns, 20)
    assert [f"{correlation[pair]:.2f}" for pair in pairs[:10]] == (
        "0.60 -0.60 -0.58 0.56 -0.55 0.53 -0.52 -0.51 0.49 -0.46".split()
    )
    assert [internal.columns[i] for i in pairs[0]] == ["low_pass.freq", "sends.reverb.gamma[44,0]"]
    other = [rank_correlation(medleydb.rows)[pair] for pair in pairs[:10]]
    assert other == pytest.approx([0.32, -0.10, -0.20, 0.35, 0.06, 0.19, -0.30, -0.02, 0.41, -0.47], abs=0.0055)


@needs_published
def test_the_published_medians_are_found(published: dict[str, Features]) -> None:
    told = {
        "peak1.freq": (743, 378),
        "peak1.gain": (-3.4, -1.7),
        "peak2.Q": (0.75, 0.37),
        "comp.cmp_threshold": (-21.9, -18.0),
        "comp.exp_ratio": (0.990, 0.979),
        "comp.attack": (2.7, 6.7),
        "sends.delay.gain": (0.051, 0.021),
        "sends.delay_to_reverb": (0.76, 0.07),
    }
    for name, medians in told.items():
        found = [np.median(features.values()[name]) for features in published.values()]
        assert found == pytest.approx(medians, rel=0.02, abs=0.005), name


@needs_published
def test_a_set_given_twice_is_there_once() -> None:
    assert list(load_sets(SHARED / "medleydb", SHARED / "medleydb")) == ["medleydb"]
