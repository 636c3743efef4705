"""A chain with values, ready to be applied to recordings: of a run, of a preset, or of a file of values."""

import torch

from reknob.afx.effect import Effect, Knobs, Values, nest
from reknob.afx.registry import EFFECTS, build
from reknob.formats.presets import PUBLISHED_CHAIN, load_presets, read_chain
from reknob.formats.runs import load_run, load_values, read_chain_file
from reknob.runtime.errors import UsageError


def load_chain(
    *,
    run: str | None,
    preset: str | None,
    row: int,
    values: str | None,
    fx_config: str | None,
    realtime: bool,
    no_delay: bool,
    no_reverb: bool,
    **_: object,
) -> tuple[Effect, Values]:
    """The chain and its values as the options of a program name them (`runtime.arguments.chain_options`).

    UsageError naming the file that is missing, damaged or of another chain, and for a row that the set has not.
    """
    raws = None
    if run:
        fitted = load_run(run)
        config, sr, raws = fitted.config, fitted.sr, fitted.raws
    elif preset:
        config, sr, _ = read_chain(preset, fx_config)
    else:
        config, sr = read_chain_file(fx_config or PUBLISHED_CHAIN)
    chain = build(realtime_form(config) if realtime else config, sr).eval()
    if preset:
        presets = load_presets(preset, chain)
        if not 0 <= row < len(presets):
            raise UsageError(f"--row {row}: {preset} has rows 0 to {len(presets) - 1}")
        raws = presets[row].raws
    if raws is None:
        applied = nest(load_values(values, chain))
    else:
        knobs = Knobs(chain)
        knobs.load_state_dict(raws, strict=False)
        with torch.no_grad():
            applied = knobs()
    muted = {family for family, wanted in (("delay", no_delay), ("reverb", no_reverb)) if wanted}
    return chain, switch_off(chain, applied, muted)


def realtime_form(config: dict) -> dict:
    """The same chain with its effects rendered sample by sample where they have such a form."""
    config = {key: realtime_form(value) if isinstance(value, dict) else value for key, value in config.items()}
    return config | (EFFECTS[config["effect"]].realtime_options if config.get("effect") in EFFECTS else {})


def switch_off(effect: Effect, values: Values, families: set[str]) -> Values:
    """These values, with the effects of some families switched off."""
    if effect.family in families:
        return effect.off(values)
    return values | {name: switch_off(part, values[name], families) for name, part in effect.parts()}
