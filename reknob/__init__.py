"""Which effects, with which settings, turned a dry recording into a wet one?

fit = reknob.fit("dry.wav", "wet.wav", steps=400)
y = reknob.load_preset("presets/own", row=0).render(x, sr=44100)
estimate = reknob.estimate("song.mp3", chain="peq_comphalf")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# A wheel holds the folders of the project inside this package; in a clone they lie beside it.
_clone = Path(__file__).resolve().parent.parent
if (_clone / "afx" / "param.py").is_file():
    __path__.append(str(_clone))

#: Public name -> module that holds it; loaded when it is first used, as torch takes seconds.
_PUBLIC = {
    "Effect": "afx.effect",
    "Estimate": "api",
    "Fit": "api",
    "Knobs": "afx.effect",
    "Processor": "api",
    "Stream": "afx.stream",
    "UsageError": "runtime.errors",
    "build": "afx.registry",
    "estimate": "api",
    "fit": "api",
    "load_preset": "api",
    "load_run": "api",
    "register_dataset": "extend",
    "register_effect": "extend",
    "register_encoder": "extend",
    "register_loss": "extend",
    "register_recordings": "extend",
    "write_report": "report.page",
}
__all__ = [
    "Effect",
    "Estimate",
    "Fit",
    "Knobs",
    "Processor",
    "Stream",
    "UsageError",
    "build",
    "estimate",
    "fit",
    "load_preset",
    "load_run",
    "losses",
    "register_dataset",
    "register_effect",
    "register_encoder",
    "register_loss",
    "register_recordings",
    "write_report",
]

if TYPE_CHECKING:  # the same names for checkers and editors
    from reknob import losses
    from reknob.afx.effect import Effect, Knobs
    from reknob.afx.registry import build
    from reknob.afx.stream import Stream
    from reknob.api import Estimate, Fit, Processor, estimate, fit, load_preset, load_run
    from reknob.extend import register_dataset, register_effect, register_encoder, register_loss, register_recordings
    from reknob.report.page import write_report
    from reknob.runtime.errors import UsageError


def __getattr__(name: str) -> object:
    if name == "losses":
        return import_module("reknob.losses")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'reknob' has no attribute {name!r}")
    return getattr(import_module(f"reknob.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
