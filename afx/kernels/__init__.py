"""The only door to the sample loops: differentiable functions on torch tensors, whatever back end runs them."""

from .fdn import fdn_response
from .recursions import ballistics, biquad_cascade, compressor_gain, one_pole

__all__ = ["ballistics", "biquad_cascade", "compressor_gain", "fdn_response", "one_pole"]
