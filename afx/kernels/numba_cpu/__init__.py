"""The kernels as compiled loops on the CPU: plain arrays in and out, float64 inside, parallel over rows or bins."""

import numba

# OpenMP, numba's own choice, kills data workers that were forked after a parallel kernel has run. What a user chose
# by NUMBA_THREADING_LAYER stays.
if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "workqueue"
