"""Chunks of a pair: where they start, which are dropped, and what is refused."""

from pathlib import Path

import pytest
import torch

from reknob.data.chunks import cut_chunks
from reknob.data.pairs import Pair


def pair_of(seconds: float, sr: int = 1000) -> Pair:
    """A ramp, so that each sample tells where it was; wet is the ramp and its half."""
    ramp = 1.0 + torch.arange(round(seconds * sr), dtype=torch.float32)[None]
    return Pair("song", ramp, torch.cat([ramp, ramp / 2]), sr, Path("dry.wav"), Path("wet.wav"), 0)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(12.0, (0,)), (18.999, (0,)), (19.0, (0, 7000)), (26.5, (0, 7000, 14000))],
)
def test_chunks_of_twelve_seconds_start_every_seven_and_the_tail_is_dropped(
    seconds: float, starts: tuple[int, ...]
) -> None:
    chunks = cut_chunks(pair_of(seconds))
    assert chunks.starts == starts and chunks.warm_up == 5000
    assert chunks.dry.shape == (len(starts), 1, 12000) and chunks.wet.shape == (len(starts), 2, 12000)
    for i, start in enumerate(starts):
        expected = 1.0 + torch.arange(start, start + 12000)
        assert torch.equal(chunks.dry[i, 0], expected) and torch.equal(chunks.wet[i, 0], expected)
        assert torch.equal(chunks.wet[i, 1], expected / 2)


def test_chunks_whose_wet_is_silent_after_the_overlap_are_dropped() -> None:
    pair = pair_of(26.0)
    pair.wet[:, 12000:19000] = 0.001  # the part of the second chunk that counts, at -60 dBFS
    assert cut_chunks(pair).starts == (0, 14000)
    pair.wet[1, 15000] = -0.00101
    assert cut_chunks(pair).starts == (0, 7000, 14000)


def test_without_overlap_chunks_lie_side_by_side() -> None:
    chunks = cut_chunks(pair_of(4.0), duration=1.5, overlap=0.0)
    assert chunks.starts == (0, 1500) and chunks.warm_up == 0


def test_a_pair_shorter_than_a_chunk_is_refused_with_an_advice_that_works() -> None:
    pair = pair_of(8.048)
    with pytest.raises(
        ValueError, match=r"song is 8.05 s long, a chunk 12 s: set chunk_duration=8.04 or less, and chunk_"
    ):
        cut_chunks(pair)
    assert cut_chunks(pair, duration=8.04).starts == (0,)


def test_a_silent_wet_side_is_refused() -> None:
    pair = pair_of(19.0)
    pair.wet[:] = 0.0
    with pytest.raises(ValueError, match=r"song has nothing to fit: wet stays at or below -60 dBFS in all 2 chunks"):
        cut_chunks(pair)


@pytest.mark.parametrize(("duration", "overlap"), [(5.0, 5.0), (4.0, 5.0), (12.0, -1.0), (0.0, 0.0)])
def test_an_overlap_that_leaves_nothing_to_hear_is_refused(duration: float, overlap: float) -> None:
    message = rf"chunk_overlap={overlap:g} s must be at least 0 and below chunk_duration={duration:g} s"
    with pytest.raises(ValueError, match=message):
        cut_chunks(pair_of(19.0), duration, overlap)
