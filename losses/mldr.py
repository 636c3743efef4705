"""Loudness dynamic range: the ratio of a short to a long average of power, compared over time."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reknob.afx.functional.level import rise_to_coef
from reknob.afx.kernels import loudness, one_pole
from reknob.runtime.errors import UsageError

ROWS = ("separate", "rolled")


@dataclasses.dataclass(frozen=True)
class LoudnessTarget:
    """What the distance needs of N targets, computed once; `index` (n,) selects n of them, in order."""

    data: Tensor  # separate rows: ratios (N, S, P, T); rolled rows: averages (N, S, P, 2, T), short and long
    index: Tensor

    def __len__(self) -> int:
        return self.index.shape[0]

    def select(self, index: Tensor) -> "LoudnessTarget":
        """Return the items `index`, integers, without copying."""
        return dataclasses.replace(self, index=self.index[index])


class MLDR:
    """L1 distance of log(short average) - log(long average) of power, summed over pairs of averaging times.

        e = max(x², 1e-8),   LDR[n] = log short(e)[n] - log long(e)[n + ⌊sr·(long - short)/2⌋]

    A row is one channel of one item. Each row is compared separately; its end, which has no long average that far
    ahead, is left out of the mean.

    Args:
        sr: sample rate in Hz.
        taus_ms: pairs (short, long) of 10 to 90 % rise times in ms.
        rows: "separate"; or "rolled", as in the published release, to reproduce its numbers: the long averages of all
            rows, concatenated, are rolled circularly, so that the end of a row is compared with the start of the
            next one, and the coefficients have the rounding error of their float32 formula.
        mid_side: append the rows (L + R)/√2 and (L - R)/√2 of stereo.

    Source: Yu et al., DiffVox, arXiv 2504.14735, section 3.
    """

    def __init__(
        self,
        sr: int,
        *,
        taus_ms: Sequence[tuple[float, float]] = ((50.0, 1000.0), (100.0, 2000.0)),
        rows: str = "separate",
        mid_side: bool = False,
    ) -> None:
        if rows not in ROWS:
            raise UsageError(f"unknown treatment of rows '{rows}'; known: {', '.join(ROWS)}")
        if rows == "rolled":  # the release forms 1 - exp in float32, which moves the slow averages by 0.1 %
            exponents = -2200 / torch.tensor(taus_ms) / sr
            # Rounded from float64, as float32 exponentials differ in their last digit from machine to machine.
            self.coefs = (1 - exponents.double().exp().float()).double()
        else:
            self.coefs = torch.as_tensor(rise_to_coef(torch.tensor(taus_ms, dtype=torch.float64), sr))
        # Half the difference in samples: an average lags by its rise time / 2.2, so this nearly aligns the two.
        self.shifts = torch.tensor([math.floor(sr * (long - short) * 0.0005) for short, long in taus_ms])
        self.rolled, self.mid_side = rows == "rolled", mid_side
        self.channels = (2,) if mid_side else (1, 2)

    @property
    def least_samples(self) -> int:
        """The shortest signals that it compares: the long averages are read ahead of the short ones."""
        return max(self.shifts.tolist()) + 1

    @torch.no_grad()
    def prepare(self, target: Tensor) -> LoudnessTarget:
        """Compute everything of the target (B, C, T) once; UsageError for mono where mid and side are compared."""
        if self.mid_side and target.shape[1] != 2:
            raise UsageError(f"mid and side are compared of stereo (B, 2, T); got {tuple(target.shape)}")
        if self.rolled:
            data = self._averages(target)
        else:
            data = loudness.loudness_ratio(target, self.coefs, self.shifts, self.mid_side)
        return LoudnessTarget(data, torch.arange(len(target), device=target.device))

    def distances(self, pred: Tensor, target: Tensor | LoudnessTarget) -> Tensor:
        """Distance of each row: (B, S), S = C or, with `mid_side`, 4: L, R, mid and side; float64."""
        target = target if isinstance(target, LoudnessTarget) else self.prepare(target)
        if len(target) != len(pred):
            raise UsageError(f"{len(pred)} predictions beside {len(target)} targets; give as many of each")
        if self.rolled:  # over all rows: the end of an item is compared with the start of the next
            ranges = self._rolled_range(self._averages(pred)), self._rolled_range(target.data[target.index])
            return (ranges[0] - ranges[1]).abs().mean(3, dtype=torch.float64).sum(2)
        sums = loudness.loudness_deviation(pred, target.data, target.index, self.coefs, self.shifts, self.mid_side)
        counts = [pred.shape[-1] - shift for shift in self.shifts.tolist()]
        means = [pair / count for pair, count in zip(sums.unbind(2), counts, strict=True)]
        return functools.reduce(torch.add, means)

    def __call__(self, pred: Tensor, target: Tensor | LoudnessTarget) -> Tensor:
        """Mean distance between pred and target, (B, C, T) both: a scalar."""
        return self.distances(pred, target).mean().to(pred.dtype)

    def _averages(self, x: Tensor) -> Tensor:
        """Short and long averages (B, S, P, 2, T) of the power of x (B, C, T)."""
        if self.mid_side:
            left, right = x.unbind(1)
            # Over √2, unlike the L ± R of MSS, as published: the transform then keeps the total power.
            x = torch.stack([left, right, (left + right) * 0.5**0.5, (left - right) * 0.5**0.5], 1)
        # The floor keeps the logarithms of silence finite.
        power = x.square().clamp(min=1e-8)
        averages = [one_pole(power.flatten(0, 1), coef[None]) for coef in self.coefs.flatten()]
        return torch.stack(averages, 1).unflatten(0, x.shape[:2]).unflatten(2, self.coefs.shape)

    def _rolled_range(self, averages: Tensor) -> Tensor:
        """Loudness dynamic range (B, S, P, T); L and R are rolled as one array over all items, mid and side apart."""
        short, long = averages.log().unbind(3)
        shifts = self.shifts.tolist()
        groups = long.split(2, 1) if self.mid_side else [long]
        rolled = [torch.stack([rows[:, :, p].roll(-n) for p, n in enumerate(shifts)], 2) for rows in groups]
        return short - torch.cat(rolled, 1)
