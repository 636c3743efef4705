"""A chain and its values, from a run folder, a preset or a file of values, as programs apply them to recordings."""

from pathlib import Path

import torch

from reknob.afx.effect import Effect, Knobs, Values, nest
from reknob.afx.registry import EFFECTS, build
from reknob.formats.presets import PUBLISHED_CHAIN, load_presets, read_chain
from reknob.formats.runs import load_run, load_values, read_chain_file
from reknob.runtime.errors import UsageError


def load_chain(
    *,
    run: str | Path | None,
    preset: str | Path | None,
    row: int,
    values: str | Path | None,
    fx_config: str | Path | None,
    realtime: bool,
    no_delay: bool,
    no_reverb: bool,
    **_: object,
) -> tuple[Effect, Values]:
    """The chain and its values in physical units, as selected by the options of `runtime.arguments.chain_options`.

    Args:
        run: run folder; exactly one of `run`, `preset` and `values` is given.
        preset: folder of a preset set.
        row: which of its presets.
        values: file parametrised.pth, in physical units.
        fx_config: the chain of `preset` or `values`.
        realtime: render delay and reverb sample by sample.
        no_delay: mute the delay.
        no_reverb: mute the reverb.

    UsageError naming the file that is missing, damaged or of another chain, and for a row that the set does not have.
    """
    raws = None
    if run:
        fitted = load_run(run)
        config, sr, raws = fitted.config, fitted.sr, fitted.raws
    elif preset:
        config, sr = read_chain(preset, fx_config)[:2]
    else:
        config, sr = read_chain_file(fx_config or PUBLISHED_CHAIN)
    chain = build(realtime_form(config) if realtime else config, sr).eval()
    if preset:
        presets = load_presets(preset, chain)
        if not 0 <= row < len(presets):
            raise UsageError(f"--row {row}: {preset} has rows 0 to {len(presets) - 1}")
        raws = presets[row].raws
    if raws is None:
        assert values is not None
        applied = nest(load_values(values, chain))
    else:
        # Not strict: a preset lacks the parameters that no preset stores, which keep their defaults.
        knobs = Knobs(chain)
        knobs.load_state_dict(raws, strict=False)
        with torch.no_grad():
            applied = knobs()
    muted = {family for family, wanted in (("delay", no_delay), ("reverb", no_reverb)) if wanted}
    return chain, switch_off(chain, applied, muted)


def realtime_form(config: dict) -> dict:
    """The configuration with every effect that has a sample-by-sample form switched to it."""
    config = {key: realtime_form(value) if isinstance(value, dict) else value for key, value in config.items()}
    return config | (EFFECTS[config["effect"]].realtime_options if config.get("effect") in EFFECTS else {})


def switch_off(effect: Effect, values: Values, families: set[str]) -> Values:
    """The values with the effects of some families (`Effect.family`) replaced by their off values."""
    if effect.family in families:
        return effect.off(values)
    switched = dict(values)
    for name, part in effect.parts():
        inner = values[name]
        assert isinstance(inner, dict)
        switched[name] = switch_off(part, inner, families)
    return switched
