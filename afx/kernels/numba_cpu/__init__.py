"""The kernels as compiled loops on the CPU: NumPy arrays in and out, float64 inside, parallel over rows or bins."""

from typing import Any

import numba.core.config

config: Any = numba.core.config  # whose attributes numba sets as it loads

# OpenMP, numba's default, ends the process of a data worker that was forked after a parallel kernel has run in its
# parent. A layer that is set by NUMBA_THREADING_LAYER is kept.
if config.THREADING_LAYER == "default":
    config.THREADING_LAYER = "workqueue"
