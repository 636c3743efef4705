"""Every effect gives the outputs and gradients of the published DiffVox release, under the release's names."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from measures import relative_rms, rms
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, flatten
from reknob.afx.functional import biquad
from reknob.afx.functional.level import rise_to_coef
from reknob.afx.registry import build
from reknob.formats.published import Entry, entries, from_published

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "diffvox"
INDEX = json.loads((GOLDEN / "index.json").read_text())
SR = 44100

COMP = {"effect": "compressor_expander"}
CHAIN = yaml.safe_load((ROOT / "cfg" / "model" / "diffvox.yaml").read_text())
LOOP_EQ = {"effect": "low_pass", "freq": {"default": 4500, "range": [200, 16000]}, "Q": {"range": [0.5, 2]}}
DELAY = {"effect": "ping_pong_delay", "ir_duration": 2, "eq": LOOP_EQ}
SURROGATE = {**DELAY, "surrogate": True}
FS = {**DELAY, "ir_duration": 8, "render": "fs"}
BARE_FDN = {"effect": "fdn", "ir_duration": 1}
FDN = {**BARE_FDN, "eq": CHAIN["sends"]["reverb"]["eq"]}
SENDS = {"effect": "sends", "delay": SURROGATE, "reverb": FDN}

# Golden file to the effect's configuration; files that end in "train" were made in training mode.
CASES = {
    "Peak": {"effect": "peak", "freq": {"range": [33, 5400]}},
    "Peak_cut": {"effect": "peak", "freq": {"range": [200, 17500]}},
    "LowShelf": {"effect": "low_shelf"},
    "HighShelf": {"effect": "high_shelf"},
    "LowPass": {"effect": "low_pass"},
    "HighPass": {"effect": "high_pass"},
    "CompressorExpander_nolookahead": {**COMP, "lookahead": False},
    "CompressorExpander_lookahead": COMP,
    "CompressorExpander_lookahead_wrapped": COMP,
    "CompressorExpander_default": COMP,
    "Panning": {"effect": "panning"},
    "Panning_stereo": {"effect": "panning"},
    "StereoWidth": {"effect": "stereo_width"},
    "Delay_eq_recursiveTrue": DELAY,
    "Delay_eq_recursiveFalse": {**DELAY, "recursive_eq": False},
    "Delay_noeq": {"effect": "ping_pong_delay", "ir_duration": 2},
    "SurrogateDelay_recTrue_stTrue_train": SURROGATE,
    "SurrogateDelay_recTrue_stTrue_eval": SURROGATE,
    "SurrogateDelay_recTrue_stFalse_train": {**SURROGATE, "straight_through": False},
    "SurrogateDelay_recFalse_stFalse_train": {**SURROGATE, "straight_through": False, "recursive_eq": False},
    "FSDelay_fb.2_recTrue": FS,
    "FSSurrogateDelay_stTrue_train": {**FS, "surrogate": True},
    "FSSurrogateDelay_stTrue_eval": {**FS, "surrogate": True},
    "FSSurrogateDelay_stFalse_train": {**FS, "surrogate": True, "straight_through": False},
    "FDN_49_eq": FDN,
    "FDN_49_noeq": BARE_FDN,
    "FDN_49_dep": {**BARE_FDN, "shared_decay": False},
    "FDN_mono_in": FDN,
    "SendFXsAndSum_train": SENDS,
    "SendFXsAndSum_eval": SENDS,
    "Reverb": {"effect": "noise_reverb", "ir_length": 3000, "n_fft": 384, "hop": 192},
    "chain_default_train": CHAIN,
    "chain_presetA_train": CHAIN,
    "chain_presetA_eval": CHAIN,
}
COEFS = {
    "lowpass_biquad_coef": biquad.low_pass,
    "highpass_biquad_coef": biquad.high_pass,
    "equalizer_biquad_coef": biquad.peak,
    "lowshelf_biquad_coef": biquad.low_shelf,
    "highshelf_biquad_coef": biquad.high_shelf,
}
# Below this share of the largest gradient, a gradient is what rounding left of zero.
NOTHING = 1e-12


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


def made(name: str, data: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[Effect, Knobs]:
    """The effect of a case, in its mode, and its knobs at the golden raw parameters."""
    config = copy.deepcopy(CASES[name])
    # The release holds the ceiling of a shared decay as a float32 number.
    ceiling = [float(value) for key, value in data.items() if key.endswith("gamma.0.max") and value.ndim == 0]
    for network in (config, config.get("reverb", {}), config.get("sends", {}).get("reverb", {})):
        if network.get("effect") == "fdn" and ceiling:
            network["gamma"] = {"range": [0, *ceiling]}
    effect = build(config, SR).to(dtype).train(name.endswith("train"))
    state = {key.removeprefix("raw/"): torch.from_numpy(v) for key, v in data.items() if key.startswith("raw/")}
    knobs = Knobs(effect)
    knobs.load_state_dict(from_published(state, effect))
    return effect, knobs.to(dtype)


def errors_of(name: str, data: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[dict[str, float], list[Entry]]:
    """Relative RMS errors of the output and of all gradients of sum(output · w), and the effect's parameters."""
    effect, knobs = made(name, data, dtype)
    inputs = np.load(GOLDEN / "inputs.npz")
    x = torch.from_numpy(inputs[INDEX[name]["x"]]).to(dtype).requires_grad_()
    w = torch.from_numpy(inputs[INDEX[name]["w"]]).to(dtype)
    y = effect(x, **knobs())
    assert y.shape == (x.shape[0], w.shape[1], x.shape[2])
    assert y.dtype == dtype
    # The release's noise reverb drops the samples after the last whole hop.
    kept = data["out_f64"].shape[-1]
    (y[..., :kept] * w[..., :kept]).sum().backward()
    rows = entries(effect)
    errors = gradient_errors(rows, {ours: raw.grad for ours, raw in knobs.named_parameters()}, data)
    errors["input"] = relative_rms(x.grad, data["gradx_f64"])
    errors["output"] = relative_rms(y[..., :kept], data["out_f64"])
    return errors, rows


def gradient_errors(
    rows: list[Entry], grads: dict[str, Tensor | None], data: dict[str, np.ndarray]
) -> dict[str, float]:
    """Relative RMS error by parameter; numbers that are truly zero are measured beside the largest gradient."""
    truths = {row.ours: data[f"grad_f64/{row.theirs}"] for row in rows}
    reached = {name: truth for name, truth in truths.items() if not np.isnan(truth).any()}
    assert {name for name, grad in grads.items() if grad is not None} == reached.keys()
    largest = max(map(rms, reached.values()))
    errors = {}
    for name, truth in reached.items():
        assert grads[name].numel() == truth.size
        error = rms(grads[name].reshape(-1).double() - torch.from_numpy(truth).reshape(-1))
        errors[name] = error / (rms(truth) if rms(truth) > NOTHING * largest else 1e6 * NOTHING * largest)
    return errors


def release_error(data: dict[str, np.ndarray], theirs: str) -> float:
    """Relative error of the release's own float32 gradient; 0 where none is recorded."""
    own = data.get(f"grad_f32/{theirs}")
    return 0.0 if own is None else relative_rms(own, data[f"grad_f64/{theirs}"])


def test_every_golden_effect_has_a_case() -> None:
    keys = {name: entry.get("keys", {}) for name, entry in INDEX.items() if isinstance(entry, dict)}
    assert {name for name in keys if "gradx_f64" in keys[name]} == CASES.keys()


@pytest.mark.parametrize("name", [name for name in CASES if name != "chain_presetA_eval"])
def test_float64_equals_the_release(name: str) -> None:
    errors, _ = errors_of(name, golden(name), torch.float64)
    assert {key: error for key, error in errors.items() if not error < 1e-6} == {}


@pytest.mark.parametrize("name", [name for name in CASES if not (name.startswith("chain") and name.endswith("train"))])
def test_float32_is_as_near_to_float64_as_the_release_or_nearer_than_1e_4(name: str) -> None:
    data = golden(name)
    errors, rows = errors_of(name, data, torch.float32)
    allowed = {
        "output": float(data["out_f32_rmserr"]) / rms(data["out_f64"]),
        "input": float(data["gradx_f32_rmserr"]) / rms(data["gradx_f64"]),
        **{row.ours: release_error(data, row.theirs) for row in rows},
    }
    allowed = {key: max(1e-4, error) for key, error in allowed.items()}
    assert {key: (error, allowed[key]) for key, error in errors.items() if not error <= allowed[key]} == {}


@pytest.mark.parametrize("name", CASES)
def test_raw_parameters_mean_the_values_of_the_release(name: str) -> None:
    data = golden(name)
    effect, knobs = made(name, data, torch.float64)
    values, errors = flatten(knobs()), {}
    for row in entries(effect):
        key = "val/" + row.theirs.replace("parametrizations.", "").removesuffix(".original")
        if key not in data:
            assert row.ours == "phase"
            continue
        value = values[row.ours]
        # The release's compressor times are coefficients.
        value = rise_to_coef(value, SR) if row.ours.split(".")[-1] in ("attack", "release") else value
        errors[row.ours] = relative_rms(value, data[key])
    # The release's values are float32 numbers.
    assert {key: error for key, error in errors.items() if not error < 1e-6} == {}


# The release ran in float32, coefficients of the reverb's equaliser included: near DC those alone cost 2·10⁻⁴.
@pytest.mark.parametrize(("name", "config", "tolerance"), [("RealTimeDelay", DELAY, 1e-4), ("RealTimeFDN", FDN, 5e-4)])
def test_real_time_forms_equal_the_release(name: str, config: dict, tolerance: float) -> None:
    data, inputs = golden(name), np.load(GOLDEN / "inputs.npz")
    effect = build({**config, "render": "realtime"}, SR)
    state = {key.removeprefix("raw/"): torch.from_numpy(v) for key, v in data.items() if key.startswith("raw/")}
    knobs = Knobs(effect)
    knobs.load_state_dict(from_published(state, effect))
    y = effect(torch.from_numpy(inputs[INDEX[name]["x"]]), **knobs())
    assert relative_rms(y, data["out_f32"]) < tolerance


@pytest.mark.parametrize("row", INDEX["biquad_coefficients"], ids=lambda row: f"{row['fn'][:-12]}-{row['freq']:.0f}")
def test_biquad_coefficients_equal_the_release(row: dict) -> None:
    b0, b1, b2, a0, a1, a2 = row["b0b1b2a0a1a2"]
    numbers = [row[key] for key in ("freq", "Q", "gain") if row[key] is not None]
    coefs = COEFS[row["fn"]](*(torch.tensor(number, dtype=torch.float64) for number in numbers), SR)
    assert relative_rms(coefs, np.array([b0, b1, b2, a1, a2]) / a0) < 1e-12
