"""A chain and its values, from a run folder, a preset or a file of values, as programs apply them to recordings."""

from collections.abc import Sequence
from pathlib import Path

from reknob.afx.effect import Effect, Values, nest, values_at
from reknob.afx.registry import EFFECTS, build
from reknob.formats.changes import changed
from reknob.formats.preset_document import build_chain, is_document, read_document, values_of
from reknob.formats.preset_set import open_set, refuse_row
from reknob.formats.presets import PUBLISHED_CHAIN
from reknob.formats.runs import load_run, load_values, read_chain_file
from reknob.runtime.errors import UsageError

LUFS = -18.0  # of the recordings that presets are fitted to


def load_chain(
    *,
    run: str | Path | None = None,
    preset: str | Path | None = None,
    row: int = 0,
    values: str | Path | None = None,
    fx_config: str | Path | None = None,
    realtime: bool = False,
    no_delay: bool = False,
    no_reverb: bool = False,
    changes: Sequence[str] = (),
    amount: float = 1.0,
    **_: object,
) -> tuple[Effect, Values]:
    """The chain and its values in physical units, as selected by the options of `runtime.arguments.chain_options`.

    Args:
        run: run folder; exactly one of `run`, `preset` and `values` is given.
        preset: folder of a preset set, or a preset document.
        row: which preset of the set.
        values: file parametrised.pth, in physical units.
        fx_config: the chain of `preset` or `values`.
        realtime: render delay and reverb sample by sample.
        no_delay: mute the delay.
        no_reverb: mute the reverb.
        changes, amount: of the values, as in `formats.changes`.

    UsageError naming the file that is missing, damaged or of another chain, and for a row that the set does not have.
    """
    muted = {family for family, wanted in (("delay", no_delay), ("reverb", no_reverb)) if wanted}
    if not preset or is_document(preset):
        refuse_row(run or preset or values, row)
    if preset and is_document(preset):
        if fx_config:
            raise UsageError(f"--fx-config {fx_config}: {preset} has its own chain; leave one of them out")
        document = read_document(preset)
        config = document.chain
        chain = build_chain(realtime_form(config) if realtime and isinstance(config, dict) else config, document.sr)
        applied = changed(chain, values_of(chain, document.values, document.raws), changes, amount)
        return chain.eval(), switch_off(chain, applied, muted)
    raws = None
    if run:
        fitted = load_run(run)
        config, sr, raws = fitted.config, fitted.sr, fitted.raws
    elif preset:
        own = open_set(preset, fx_config)
        config, sr, raws = own.config, own.effect.sr, own.preset(row).raws
    else:
        config, sr = read_chain_file(fx_config or PUBLISHED_CHAIN)
    chain = build(realtime_form(config) if realtime else config, sr).eval()
    if raws is None:
        assert values is not None
        applied = nest(load_values(values, chain))
    else:
        applied = values_at(chain, raws)
    return chain, switch_off(chain, changed(chain, applied, changes, amount), muted)


def input_loudness(loudness: float | None | str, preset: str | Path | None) -> float | None:
    """The loudness in LUFS that an input is brought to, None for its own: as given, or "preset" for the preset's.

    A preset document has its own; every other preset is one at LUFS.
    """
    if not isinstance(loudness, str):
        return loudness
    return read_document(preset).lufs if preset and is_document(preset) else LUFS


def realtime_form(config: dict) -> dict:
    """The configuration with every effect that has a sample-by-sample form switched to it."""
    config = {key: realtime_form(value) if isinstance(value, dict) else value for key, value in config.items()}
    key = config.get("effect")  # of any type, as the chain is not built yet
    return config | (EFFECTS[key].realtime_options if isinstance(key, str) and key in EFFECTS else {})


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
