"""Parts of all recursions: signals cut into chunks, one per lane, and scans that carry states from chunk to chunk.

x (R, T) is cut into C chunks of `size` samples per row; lane r C + c runs the samples of chunk c of row r sequentially.
A chunk is an affine map of the state it starts from, end = slope state + end from zero state. Three passes follow:
chunks are run from zero state, in parallel, which gives their maps (2, R, C); a scan over the chunks of a row combines
the maps to the states (R, C) before each chunk; chunks are run again from these states and write the output. Adjoint
passes are the same with time, and therefore the order of the chunks, reversed.
"""

import triton
import triton.language as tl
from torch import Tensor, empty

LANES = 32  # per program; few, so that there are enough programs to fill a GPU
CHUNKS = 1024  # per row, at most
SHORTEST = 64  # samples of a chunk, at least
SCRATCH = 2**29  # bytes of scratch memory of all programs of a launch, at most
STEPS = tl.constexpr(8)  # samples that a lane loads at once: 32 bytes of float32, a sector of the cache


def chunk_size(samples: int) -> int:
    """Samples of a chunk: a multiple of STEPS."""
    # Longer rows have longer chunks, not more: a scan holds the maps of all chunks of a row in one program.
    return max(SHORTEST, STEPS.value * triton.cdiv(samples, STEPS.value * CHUNKS))


def programs_at_once(programs: int, numbers: int, bytes_each: int) -> int:
    """Programs per launch, of `programs`, whose lanes fit SCRATCH with `numbers` of `bytes_each` per lane."""
    return min(programs, max(1, SCRATCH // max(1, LANES * numbers * bytes_each)))


def scan(maps: Tensor, initial: Tensor) -> Tensor:
    """States (R, C) before each chunk by s <- slope s + end, from initial (R,); maps (2, R, C) = slopes and ends."""
    _, rows, chunks = maps.shape
    starts = empty((rows, chunks), dtype=maps.dtype, device=maps.device)
    block = triton.next_power_of_2(chunks)
    scan_kernel[(rows,)](maps, initial, initial.stride(0), starts, rows, chunks, BLOCK=block)
    return starts


def scan_pair(maps: Tensor) -> Tensor:
    """States (2, R, C) before each chunk, from zero: s <- m s + e, t <- x s + k t + f; maps (5, R, C) = m x k e f."""
    _, rows, chunks = maps.shape
    starts = empty((2, rows, chunks), dtype=maps.dtype, device=maps.device)
    scan_pair_kernel[(rows,)](maps, starts, rows, chunks, BLOCK=triton.next_power_of_2(chunks))
    return starts


@triton.jit
def locate(lane: tl.tensor, rows: tl.tensor, chunks: tl.tensor, samples: tl.tensor, size: tl.tensor) -> tl.tuple:
    """Row, chunk and number of samples of a lane; 0 samples for lanes beyond the last chunk."""
    row = lane // chunks
    chunk = lane - row * chunks
    return row, chunk, tl.where(row < rows, tl.minimum(samples - chunk * size, size), 0)


@triton.jit
def load_steps(pointers: tl.tensor, stride: tl.tensor, count: tl.tensor, STEPS: tl.constexpr) -> tl.tuple:
    """Load the next STEPS values of every lane, `stride` apart, as float64; 0 from the `count`-th on."""
    # A tuple, unrolled at compile time: a block of registers has no index.
    values = ()
    for j in tl.static_range(STEPS):
        values = values + (tl.load(pointers + j * stride, mask=j < count, other=0.0).to(tl.float64),)
    return values


@triton.jit
def load_row(pointers: tl.tensor, COUNT: tl.constexpr, inside: tl.tensor) -> tl.tuple:
    """Load the next COUNT values of every lane."""
    values = ()
    for i in tl.static_range(COUNT):
        values = values + (tl.load(pointers + i, mask=inside, other=0.0),)
    return values


@triton.jit
def follow(slope: tl.tensor, end: tl.tensor, next_slope: tl.tensor, next_end: tl.tensor) -> tl.tuple:
    """Compose two affine maps, the second applied last."""
    return slope * next_slope, next_slope * end + next_end


@triton.jit
def follow_pair(
    m: tl.tensor,
    x: tl.tensor,
    k: tl.tensor,
    e: tl.tensor,
    f: tl.tensor,
    next_m: tl.tensor,
    next_x: tl.tensor,
    next_k: tl.tensor,
    next_e: tl.tensor,
    next_f: tl.tensor,
) -> tl.tuple:
    """Compose two maps s <- m s + e, t <- x s + k t + f, the second applied last."""
    return (
        next_m * m,
        next_x * m + next_k * x,
        next_k * k,
        next_m * e + next_e,
        next_x * e + next_k * f + next_f,
    )


@triton.jit
def scan_kernel(
    maps: tl.tensor,
    initial: tl.tensor,
    stride: tl.tensor,
    starts: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    chunk = tl.arange(0, BLOCK)
    at = row * chunks + chunk
    # Beyond the last chunk the identity, which leaves every state as it is.
    slope = tl.load(maps + at, mask=chunk < chunks, other=1.0)
    end = tl.load(maps + rows * chunks + at, mask=chunk < chunks, other=0.0)
    state = tl.load(initial + row * stride)
    slope, end = tl.associative_scan((slope, end), 0, follow)
    # The scan includes each chunk's own map: its result is the state before the next chunk.
    tl.store(starts + row * chunks, state)
    tl.store(starts + at + 1, slope * state + end, mask=chunk + 1 < chunks)


@triton.jit
def scan_pair_kernel(
    maps: tl.tensor, starts: tl.tensor, rows: tl.tensor, chunks: tl.tensor, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0)
    chunk = tl.arange(0, BLOCK)
    at = row * chunks + chunk
    lanes = rows * chunks
    inside = chunk < chunks
    m = tl.load(maps + at, mask=inside, other=1.0)
    x = tl.load(maps + lanes + at, mask=inside, other=0.0)
    k = tl.load(maps + 2 * lanes + at, mask=inside, other=1.0)
    e = tl.load(maps + 3 * lanes + at, mask=inside, other=0.0)
    f = tl.load(maps + 4 * lanes + at, mask=inside, other=0.0)
    m, x, k, e, f = tl.associative_scan((m, x, k, e, f), 0, follow_pair)
    tl.store(starts + row * chunks, 0.0)
    tl.store(starts + lanes + row * chunks, 0.0)
    tl.store(starts + at + 1, e, mask=chunk + 1 < chunks)
    tl.store(starts + lanes + at + 1, f, mask=chunk + 1 < chunks)
