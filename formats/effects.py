"""effects.json of a run folder: which effects of a fit the recordings need, and which were removed."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reknob.formats.fields import EFFECTS_RECORD, read_fields
from reknob.runtime.files import write_text

EFFECTS = "effects.json"


@dataclass(frozen=True)
class EffectsRecord:
    """What every effect of a fitted chain is worth."""

    costs: dict[str, float]  # the loss without an effect less the loss, of those that are left, in the chain's order
    removed: dict[str, float] = field(default_factory=dict)  # by how much removing each raised the loss, in that order
    loss_before: float = 0.0  # of the whole chain
    loss: float = 0.0  # without the removed effects
    tolerance: float = 0.0


def write_effects(folder: Path, record: EffectsRecord) -> None:
    """Writes the record of a run's effects."""
    write_text(folder / EFFECTS, json.dumps(asdict(record), indent=1))


def read_effects(folder: Path) -> EffectsRecord | None:
    """The record of a run's effects; None where none were removed or compared.

    UsageError naming the file and the field that is damaged.
    """
    path = folder / EFFECTS
    return EffectsRecord(**read_fields(path, EFFECTS_RECORD, EFFECTS_RECORD.keys())) if path.exists() else None
