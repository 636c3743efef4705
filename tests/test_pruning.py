"""Which effects a fit needs: what is removed, what stays, what the run folder then says, and the order of effects."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from takes import take, write_pair
from test_session import TINY, never, outcomes, session_of
from torch import Tensor

from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.data.doctor import PairCheck
from reknob.data.pairs import Pair
from reknob.fitting import order, pruning, run_folder
from reknob.fitting.fit import Fit
from reknob.fitting.initialise import raws_from
from reknob.fitting.order import ordered, orders
from reknob.fitting.pruning import Switch, prune, switches
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import Best, TrackState
from reknob.formats.effects import EFFECTS, EffectsRecord, read_effects
from reknob.formats.runs import load_run
from reknob.losses import VocalLoss, build_fit_loss
from reknob.report.progress import effects_lines
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import read_yaml

SR = 16000
PEAK = {"effect": "peak", "freq": {"range": [33, 7900]}}
PEAKS = {"peak1": PEAK, "peak2": PEAK, "pan": {"effect": "panning"}}
COMP = {"effect": "compressor_expander", "cmp_threshold": {"default": -30.0}, "cmp_ratio": {"default": 8.0}}
SHELF = {"effect": "low_shelf", "gain": {"default": 18.0}, "freq": {"default": 180}}
LOSS = build_fit_loss({"name": "mss"}, SR)


def noise(seconds: float = 0.6, seed: int = 0) -> Tensor:
    """Noise (1, T) that comes and goes."""
    x = torch.randn(1, round(seconds * SR), generator=torch.Generator().manual_seed(seed))
    return 0.3 * x * torch.sin(torch.arange(x.shape[1]) * (2 * torch.pi * 4 / SR)).square()


def raws_of(chain: Effect, **values: float) -> dict[str, Tensor]:
    """Raw parameters of the defaults but for some values, by name with "__" for the dot."""
    return raws_from(chain, {name.replace("__", "."): torch.tensor(value) for name, value in values.items()})


def rendered(chain: Effect, dry: Tensor, raws: dict[str, Tensor]) -> Tensor:
    knobs = Knobs(chain)
    knobs.load_state_dict(raws)
    with torch.no_grad():
        return chain(dry[None], **knobs())[0]


def pruned(found: dict[str, float], true: dict[str, float], **options: object) -> tuple[Best, EffectsRecord] | None:
    """Two peaks that were fitted, pruned against the true ones."""
    chain, dry = build(PEAKS, SR), noise()
    chunks = Chunks(dry[None], rendered(chain, dry, raws_of(chain, **true))[None], 0, (0,))
    track = TrackState(chain, chunks, epochs=100)
    track.lowest = Best(1.0, raws_of(chain, **found))
    return prune(
        chain,
        track,
        LOSS,
        lambda tracks: Fit(chain, tracks, LOSS, lr=0.0025, method="annealed"),
        device="cpu",
        **options,
    )


def test_a_peak_that_hardly_changes_the_sound_is_removed_and_held_at_rest() -> None:
    true = {"peak1__gain": 6.0, "peak1__freq": 800.0, "pan__pan": 0.4}
    best, record = pruned(true | {"peak1__gain": 5.9, "peak2__gain": 0.03, "pan__pan": 0.41}, true)
    assert list(record.removed) == ["peak2"] and record.removed["peak2"] <= record.tolerance
    assert list(record.costs) == ["peak1"] and record.costs["peak1"] > 0.1
    assert best.raws["peak2.gain"] == 0 and best.loss == record.loss < 0.05
    assert best.raws["pan.pan"].sigmoid().item() == pytest.approx(0.4, abs=0.004)  # the rest was fitted further


def test_one_of_two_peaks_that_share_the_work_is_removed() -> None:
    true = {"peak1__gain": 2.0, "peak1__freq": 800.0, "peak2__freq": 800.0}
    best, record = pruned(true | {"peak1__gain": 1.2, "peak2__gain": 0.8}, true, tolerance=0.02)
    assert len(record.removed) == 1 and len(record.costs) == 1
    (stays,) = record.costs
    assert best.raws[f"{stays}.gain"].item() == pytest.approx(2.0, abs=0.2)


def test_peaks_that_are_both_needed_stay_and_the_fit_is_not_changed() -> None:
    true = {"peak1__gain": 6.0, "peak1__freq": 800.0, "peak2__gain": -6.0, "peak2__freq": 3000.0}
    best, record = pruned(true, true)
    assert record.removed == {} and record.costs.keys() == {"peak1", "peak2"}
    assert best.loss == record.loss == record.loss_before == 1.0  # as it was


def test_a_stopped_one_changes_nothing() -> None:
    assert pruned({}, {}, stopped=lambda: True) is None


def test_switches_are_the_effects_by_name_and_switch_them_off() -> None:
    settings = FitSettings(chain={"sends": {"delay": {"ir_duration": 2}, "reverb": {"ir_duration": 1}}})
    settings.read_model()
    chain = settings.build_chain()
    found = switches(chain)
    names = "peak1 peak2 low_shelf high_shelf low_pass high_pass comp.compressor comp.expander "
    names += "sends.delay sends.reverb sends.delay_to_reverb"
    assert {each.name for each in found} == set(names.split())
    raws = Knobs(chain, torch.Generator().manual_seed(0)).state_dict()
    raws |= {"peak1.gain": torch.tensor(9.0), "sends.reverb.c": torch.ones_like(raws["sends.reverb.c"])}
    for each in found:
        raws |= each.off
    assert all(raw.isfinite().all() for raw in raws.values())
    x = 0.1 * take(0.3)
    assert torch.allclose(rendered(chain, x, raws)[0], rendered(chain, x, raws)[1])
    # Open filters are not the identity, but within 0.1 dB of it between 60 Hz and 15 kHz.
    spectra = [
        torch.fft.rfft(y)[round(0.3 * 60) : round(0.3 * 15000)].abs() for y in (x[0], rendered(chain, x, raws)[0])
    ]
    assert 20 * (spectra[1] / spectra[0]).log10().abs().median() < 0.1


def test_an_effect_that_is_off_has_no_parameter_that_moves() -> None:
    chain = build({"reverb": {"effect": "fdn", "ir_duration": 1}, "comp": COMP} | PEAKS, SR)
    held = {each.name: each.held for each in switches(chain)}
    assert held["peak1"] == {"peak1.gain", "peak1.freq", "peak1.Q"} and held["comp.compressor"] == {"comp.cmp_ratio"}
    assert held["reverb"] == {"reverb.b", "reverb.c", "reverb.gamma", "reverb.U"}


def test_parameters_are_held_by_track() -> None:
    chain, dry = build(PEAKS, SR), noise(1.3)
    chunks = Chunks(dry[None], 0.5 * dry.expand(1, 2, -1), 0, (0,))
    tracks = [TrackState(chain, chunks, held=held) for held in ((), ("peak1.gain", "pan.pan"))]
    fit = Fit(chain, tracks, VocalLoss(SR), lr=0.01)
    for _ in range(3):
        fit.step()
    fit.write_back()
    free, held = (track.columns.split(track.state.raws) for track in tracks)
    assert free["peak1.gain"] != 0 and held["peak1.gain"] == 0 and held["pan.pan"] == 0 and held["peak2.gain"] != 0


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pair and how to fit and prune it in a moment; the peak does nothing and the pan all."""
    monkeypatch.setattr(pruning, "STEPS", 2)
    dry = take(1.4)
    files = write_pair(tmp_path, dry, torch.cat([dry, 0.5 * dry]))
    return [*files, *TINY, "epochs=2", "align=false", "check_pair=false", "device=cpu", "prune=true"]


def test_a_run_folder_says_what_was_removed(one: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = []
    monkeypatch.setattr(run_folder, "certainty", lambda *args: values.append(args[-1]) or {})
    (song,) = session_of([*one, "certainty=true"]).values()
    run = tmp_path / "logs" / "song" / "run_0"
    # Once, of what is left.
    assert [value["peak"]["gain"].item() for value in values] == [0] and (run / "certainty.json").exists()
    record = read_effects(run)
    assert song.outcome == "fitted" and list(record.removed) == ["peak"] and record.costs == {}
    assert load_run(run).raws["peak.gain"] == 0
    assert outcomes(session_of([*one, "resume=true"])) == {"song": "done before"}


def test_a_stopped_pruning_leaves_a_whole_fit_which_a_resumed_run_prunes(
    one: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = tmp_path / "logs" / "song" / "run_0", []

    def counted(original: Callable) -> Callable:
        def switches_(chain: Effect) -> list[Switch]:
            asked.append(chain)
            return original(chain)

        return switches_

    with monkeypatch.context() as patch:
        patch.setattr(pruning, "switches", counted(switches))
        session_of(one, stopped=lambda: bool(asked))
    assert asked and not (run / EFFECTS).exists()
    assert load_run(run).raws["peak.gain"] != 0 and (run / "fitted.flac").exists()
    again = session_of([*one, "resume=true"])
    assert outcomes(again) == {"song": "fitted"} and list(read_effects(run).removed) == ["peak"]
    assert load_run(run).raws["peak.gain"] == 0
    # More steps move all parameters again.
    session_of([*one[:-1], "resume=true", "epochs=3"])
    assert not (run / EFFECTS).exists()


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    assert read_effects(tmp_path) is None
    (tmp_path / EFFECTS).write_text(
        '{"costs": {"peak": "much"}, "removed": {}, "loss_before": 1, "loss": 1, "tolerance": 1}'
    )
    with pytest.raises(UsageError, match=r"effects.json: costs is a dict; expected numbers by name"):
        read_effects(tmp_path)


def test_the_terminal_shows_what_was_removed_and_the_worth_of_the_rest() -> None:
    record = EffectsRecord(
        {"peak1": 0.02, "comp.compressor": 0.5}, {"low_pass": 0.001, "sends.delay": 0.0}, 0.31, 0.312
    )
    assert effects_lines(record) == [
        "removed: low_pass, sends.delay; loss 0.310 -> 0.312",
        "loss without one of the others: comp.compressor +0.500, peak1 +0.020",
    ]


def test_orders_differ_in_the_bands_beside_the_compressor() -> None:
    def tried(*names: str) -> list[list[str]]:
        effects = {"comp": COMP, "pan": {"effect": "panning"}}
        config = {name: effects.get(name, PEAK) for name in names} | {"off": None}
        found = orders(config, build(config, SR))
        assert all(each == config for each in found)  # but for their order
        return [[name for name, entry in each.items() if entry] for each in found]

    assert tried("a", "b", "comp", "pan") == [["a", "b", "comp", "pan"], ["comp", "a", "b", "pan"]]
    assert tried("comp", "a", "pan") == [["comp", "a", "pan"], ["a", "comp", "pan"]]
    assert tried("a", "comp", "b") == [["a", "comp", "b"], ["comp", "a", "b"], ["a", "b", "comp"]]
    assert tried("a", "b", "pan") == [["a", "b", "pan"]] and tried("comp", "pan") == [["comp", "pan"]]


@pytest.mark.parametrize("true", [["shelf", "comp", "pan"], ["comp", "shelf", "pan"]])
def test_the_order_that_made_the_record_is_found(true: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "STEPS", 3)
    monkeypatch.setattr(order, "REFINED", 2)
    effects = {"shelf": SHELF, "comp": COMP, "pan": {"effect": "panning"}}
    chain, dry = build({name: effects[name] for name in true}, SR), noise(1.0)
    wet = rendered(chain, dry, Knobs(chain).state_dict())
    settings = FitSettings(model=None, chain=effects, sr=SR, chunk_duration=0.9, chunk_overlap=0.1, order="search")
    settings.loss.name = "mss"
    pair = Pair("song", dry, wet, SR, Path(), Path(), 0, PairCheck())
    recipe = ordered(Recipe(settings), pair)
    assert list(recipe.settings.chain) == list(recipe.tree["chain"]) == true
    assert ordered(Recipe(settings), pair, never) is not None


def test_a_run_has_the_order_that_was_chosen_and_keeps_it(
    one: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "STEPS", 1)
    monkeypatch.setattr(order, "REFINED", 1)
    asked = [*one[:-1], "chain.comp.effect=compressor_expander", "order=search"]
    session_of(asked)
    chosen = list(read_yaml(tmp_path / "logs" / "song" / "run_0" / "config.yaml")["chain"])
    assert sorted(chosen) == ["comp", "pan", "peak"]
    (song,) = session_of([*asked, "resume=true", "epochs=3"]).values()
    assert song.outcome == "fitted"
    assert list(read_yaml(tmp_path / "logs" / "song" / "run_0" / "config.yaml")["chain"]) == chosen


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UsageError, match="order=any: unknown; known: given, search"):
        FitSettings(order="any").check()
