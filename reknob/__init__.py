"""Which effects, with which settings, turned a dry recording into a wet one."""

from pathlib import Path

# A wheel holds the rooms inside this package; in a clone they lie beside it.
_clone = Path(__file__).resolve().parent.parent
if (_clone / "afx" / "param.py").is_file():
    __path__.append(str(_clone))

__version__ = "0.2.0"
