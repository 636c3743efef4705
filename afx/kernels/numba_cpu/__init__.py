"""The kernels as compiled loops on the CPU: NumPy arrays in and out, float64 inside, parallel over rows or bins."""

from typing import Any

import numba.core.config

config: Any = numba.core.config  # whose attributes numba sets as it loads

# With OpenMP, numba's own choice, a parallel kernel in a data worker that was forked after another one has run ends the
# worker's process. A layer that the user sets by NUMBA_THREADING_LAYER is kept.
if config.THREADING_LAYER == "default":
    config.THREADING_LAYER = "workqueue"
