"""Conversions between decibels and factors."""

import math

import torch
from torch import Tensor


def db_to_gain(gain_db: Tensor) -> Tensor:
    """10^(gain_db / 20)."""
    return torch.exp(gain_db * (math.log(10) / 20))


def gain_to_db(gain: Tensor) -> Tensor:
    """20·log10(gain) of a factor above zero."""
    return gain.log10() * 20
