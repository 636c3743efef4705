"""Distances between presets of a set: raw parameters in standard z_scores over the set, sqrt(mean(z²))."""

from typing import NamedTuple

import torch
from torch import Tensor

from reknob.formats.presets import z_scores


class Neighbour(NamedTuple):
    """A preset's row, and its distance from another one."""

    row: int
    distance: float


class Outlier(NamedTuple):
    """A preset's row, its distance from the set's mean, and the parameter that deviates most."""

    row: int
    distance: float
    column: int  # among the masked columns
    deviation: float  # of that column, in standard z_scores


def nearest(vectors: Tensor, row: int, mask: Tensor, count: int) -> list[Neighbour]:
    """The `count` presets nearest to one, the nearest first.

    `vectors` are rows of raw parameters (N, P); columns where `mask` (P,) is false are not compared.
    """
    z = z_scores(vectors, vectors, mask)
    distance = (z - z[row]).square().mean(1).sqrt()
    distance[row] = torch.inf  # a preset is not its own neighbour
    rows = distance.argsort()[: min(count, len(distance) - 1)].tolist()
    return [Neighbour(other, distance[other].item()) for other in rows]


def outliers(vectors: Tensor, mask: Tensor, count: int) -> list[Outlier]:
    """The `count` presets farthest from the mean of the set, the farthest first; arguments as of `nearest`."""
    z = z_scores(vectors, vectors, mask)
    distance = z.square().mean(1).sqrt()
    columns = z.abs().argmax(1).tolist()
    rows = distance.argsort(descending=True)[:count].tolist()
    return [Outlier(row, distance[row].item(), columns[row], z[row, columns[row]].item()) for row in rows]
