"""The only door to the sample loops: differentiable functions on torch tensors, whatever back end runs them."""

from .backends import compiled
from .fdn import fdn_response
from .realtime import DelayState, FdnState, realtime_delay, realtime_fdn
from .recursions import ballistics, biquad_cascade, compressor_gain, one_pole

__all__ = [
    "DelayState",
    "FdnState",
    "ballistics",
    "biquad_cascade",
    "compiled",
    "compressor_gain",
    "fdn_response",
    "one_pole",
    "realtime_delay",
    "realtime_fdn",
]
