"""The interface of the sample loops: differentiable functions on torch tensors, the same for every back end."""

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
