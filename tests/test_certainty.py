"""Intervals and words of fitted parameters: what the sound determines, what it does not, and the file they go to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from takes import SMALL, write_pair
from tensorboard.backend.event_processing import event_accumulator
from torch import Tensor

import main
from benchmarks import recovery
from reknob.afx.effect import Knobs, Tensors, flatten, nest
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.certainty import certainty
from reknob.formats.certainty import WORDS, Certainty, read_certainty, write_certainty
from reknob.losses import VocalLoss
from reknob.report.values import values_table
from reknob.runtime.errors import UsageError

SR = 22050
PAN = {"effect": "panning"}
COMP = {
    "effect": "compressor_expander",
    "cmp_threshold": {"default": -14.0},
    "exp_threshold": {"default": -120.0},
    "exp_ratio": {"default": 0.99},
}
ECHO_EQ = {"effect": "low_pass", "freq": {"default": 6000, "range": [200, 10000]}}
DELAY = {"effect": "ping_pong_delay", "ir_duration": 2, "eq": ECHO_EQ}


def source(seconds: float = 3.0) -> Tensor:
    """Bursts of noise (1, 1, T), one every 0.4 s, at levels that differ."""
    t = torch.arange(round(seconds * SR)) / SR
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    level = torch.tensor([1.0, 0.5, 0.25, 0.7])[(t / 0.4).long() % 4]
    return (0.1 * noise * level * torch.exp(-(t % 0.4) / 0.08))[None, None]


def certainty_of(config: dict, fitted: dict[str, float], true: dict[str, float] | None = None) -> dict[str, Certainty]:
    """The certainty of a chain with values `fitted` on a recording made with the values `true`, and a noise floor."""
    chain = build(config, SR).eval()

    def values(changes: dict[str, float]) -> Tensors:
        with torch.no_grad():
            return flatten(Knobs(chain)()) | {name: torch.tensor(value) for name, value in changes.items()}

    dry = source()
    with torch.no_grad():
        wet = chain(dry, **nest(values(fitted if true is None else true)))
    wet = wet + 2e-5 * torch.randn(wet.shape, generator=torch.Generator().manual_seed(1))
    return certainty(chain, Chunks(dry, wet, round(0.5 * SR), (0,)), VocalLoss(SR), nest(values(fitted)))


def words(certainties: dict[str, Certainty]) -> dict[str, object]:
    return {name: each.word for name, each in certainties.items()}


def test_a_band_at_0_db_has_a_gain_but_no_frequency_and_no_q() -> None:
    config = {"eq": {"effect": "peak", "freq": {"range": [33, 10000]}}, "pan": PAN}
    flat = certainty_of(config, {"eq.gain": 0.0})
    assert words(flat) == {
        "eq.gain": "found",
        "eq.freq": "not identifiable",
        "eq.Q": "not identifiable",
        "pan.pan": "found",
    }
    boost = certainty_of(config, {"eq.gain": 9.0})
    assert set(words(boost).values()) == {"found"}
    assert boost["eq.freq"].low < 2000 < boost["eq.freq"].high
    assert boost["eq.freq"].high - boost["eq.freq"].low < 1000


def test_a_compressor_that_never_compresses_has_no_ratio_and_no_times() -> None:
    idle = certainty_of({"comp": COMP, "pan": PAN}, {})
    for name in ("cmp_ratio", "attack", "release", "exp_threshold", "exp_ratio", "avg_coef"):
        assert idle[f"comp.{name}"].word == "not identifiable", name
    assert idle["comp.makeup"].word == "found"
    # A lower threshold would be reached, a higher one makes no difference.
    threshold = idle["comp.cmp_threshold"]
    assert threshold.word == "bounded" and -14 - threshold.low < 0.8 * (threshold.high + 14)
    working = certainty_of({"comp": COMP, "pan": PAN}, {"comp.cmp_threshold": -30.0, "comp.cmp_ratio": 4.0})
    assert {working[f"comp.{name}"].word for name in ("release", "attack")} == {"found"}


def test_an_inaudible_delay_has_a_gain_at_most_and_nothing_else() -> None:
    config = {"sends": {"effect": "sends", "delay": DELAY}}
    silent = certainty_of(config, {"sends.delay.gain": 1e-6})
    assert silent["sends.delay.gain"].word == "bounded" and silent["sends.delay.gain"].high < 0.05
    for name in ("delay", "feedback", "odd_pan.pan", "even_pan.pan", "eq.freq", "eq.Q"):
        assert silent[f"sends.delay.{name}"].word == "not identifiable", name
    assert silent["sends.direct.pan"].word == "found"


def test_a_delay_time_is_found_only_where_others_explain_less() -> None:
    config = {"sends": {"effect": "sends", "delay": DELAY}}
    heard = {"sends.delay.gain": 0.3, "sends.delay.delay": 300.0, "sends.delay.feedback": 0.3}
    right = certainty_of(config, heard)["sends.delay.delay"]
    assert right.word == "found" and 299.5 < right.low < 300 < right.high < 300.5
    wrong = certainty_of(config, heard | {"sends.delay.delay": 655.0, "sends.delay.gain": 0.03}, heard)
    assert wrong["sends.delay.delay"].word == "not identifiable"


def test_arrays_have_intervals_of_their_shape_and_ambiguous_matrices_none() -> None:
    reverb = {"effect": "fdn", "ir_duration": 2, "bands": 4}
    found = certainty_of({"sends": {"effect": "sends", "reverb": reverb}}, {})
    assert set(found) == {"sends.direct.pan", "sends.reverb.gamma"}
    gamma = found["sends.reverb.gamma"]
    # Without a level, as in the defaults, nothing is known of the decay.
    assert gamma.word == [["not identifiable"]] * 4
    assert [len(gamma.low), len(gamma.high[0])] == [4, 1]


def test_the_file_makes_the_round_trip_and_rejects_what_it_cannot_hold(tmp_path: Path) -> None:
    entries = {"a.x": Certainty(1.0, 2.0, WORDS[0]), "b": Certainty([[0.0]], [[1.0]], [[WORDS[2]]])}
    assert read_certainty(tmp_path) == {}
    write_certainty(tmp_path, entries)
    assert read_certainty(tmp_path) == entries
    for wrong in (
        {"low": 1, "high": 2},
        {"low": 2, "high": 1, "word": "found"},
        {"low": float("nan"), "high": 1, "word": "found"},
        {"low": 1, "high": 2, "word": "certain"},
        {"low": [1], "high": [2, 3], "word": ["found"]},
        {"low": [1], "high": [2], "word": "found"},
        [1, 2],
    ):
        (tmp_path / "certainty.json").write_text(json.dumps({"a.x": wrong}))
        with pytest.raises(UsageError, match=r"certainty.json: "):
            read_certainty(tmp_path)


def test_a_fit_writes_and_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = tmp_path / "chain.yaml"
    chain.write_text("eq: {effect: peak}\npan: {effect: panning}\n")
    assert main.main([*write_pair(tmp_path), *SMALL, f"model={chain}", "certainty=true"]) == 0
    (run,) = tmp_path.glob("logs/*/run_0")
    found = read_certainty(run)
    assert set(found) == {"eq.gain", "eq.freq", "eq.Q", "pan.pan"}
    printed = capsys.readouterr().out
    assert "certainty" in printed and f"{found['pan.pan'].high:.3f}" in printed
    events = event_accumulator.EventAccumulator(str(run)).Reload()
    assert "certainty/text_summary" in events.Tags()["tensors"]


def test_the_table_shows_interval_and_word() -> None:
    chain = build({"pan": PAN}, SR)
    table = values_table(chain, nest({"pan.pan": torch.tensor(0.5)}), {"pan.pan": Certainty(0.4, 0.6, "found")})
    assert table.splitlines()[1].split() == ["-", "pan", "pan", "0.500", "0.400", "0.600", "found"]


def test_the_benchmark_counts_the_intervals_that_are_called_found_or_bounded() -> None:
    called = {"a.x": Certainty(0.0, 1.0, "found"), "b": Certainty([0.0, 0.0], [1.0, 1.0], ["bounded", WORDS[2]])}
    assert recovery.holds(called, nest({"a.x": torch.tensor(0.5), "b": torch.tensor([2.0, 0.5])})) == [True, False]
    score = recovery.Score("case", "signals", 1.0, 0.5, 9.0, None, None, 0.1, 0.2, None, intervals=2, holding=1)
    assert "1 of 2 intervals hold the truth" in recovery.line(score) and "50%" in recovery.summary([score])
    drawn = recovery.figure([replace(score, scalars={"comp.ratio": (2.0, 2.5)})])
    assert drawn.axes[0].get_title() == "comp.ratio" and drawn.axes[0].lines[0].get_xydata().tolist() == [[2.0, 2.5]]
