"""torchaudio, importable beside a torch without CUDA."""

import sys
import types
from collections.abc import Callable


def _unchanged(function: Callable) -> Callable:
    return function


try:
    import torchaudio
except (OSError, RuntimeError):
    # PyPI's build links CUDA libraries that a CPU-only torch lacks. All that is used here, resampling and
    # filter banks, is plain torch code, so the compiled part is declared absent and the import repeated.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    extension = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension.fail_if_no_align = _unchanged
    sys.modules["torchaudio._extension"] = extension
    import torchaudio

__all__ = ["torchaudio"]
