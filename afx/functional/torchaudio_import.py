"""torchaudio, imported so that it works with a build of torch without CUDA."""

import sys
import types
from collections.abc import Callable


def _unchanged(function: Callable) -> Callable:
    return function


try:
    import torchaudio
except (OSError, RuntimeError):
    # PyPI's build links to CUDA libraries, which a CPU-only torch does not have. Resampling and filter banks, all that
    # is used here, are plain torch code: a stub replaces the compiled extension, and the import is repeated.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    extension = types.ModuleType("torchaudio._extension")
    vars(extension).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=_unchanged)
    sys.modules["torchaudio._extension"] = extension
    import torchaudio

__all__ = ["torchaudio"]
