"""Feeds damaged files to every reader of the project: each has to succeed or to refuse with a UsageError.

    python -m benchmarks.fuzz [--inputs 10000] [--seconds 25] [--readers estimator,preset] [--keep FOLDER] [--json F]

Every reader begins from valid files (`benchmarks.readers`). Bytes are turned, lost, doubled and inserted; in JSON, YAML
and torch files values are also replaced by odd ones, which leaves a file that parses. A reader runs in a process of its
own, with 3 GB more address space than it begins with, and an input may take SECONDS. Inputs that end in another error,
in a signal, or take longer, are kept.
"""

from reknob.runtime.program import program

import contextlib
import copy
import io
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import torch
import yaml

from benchmarks.measure import limit_memory, parser, some_of, write_json
from benchmarks.readers import READERS, Reader
from reknob.runtime.arguments import file_path, positive_float, positive_int
from reknob.runtime.errors import UsageError

SECONDS = 20
MORE_BYTES = 3 << 30
ODD: tuple[object, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**400, 1.5, -0.0, 1e-320, 1e300, float("nan"), float("inf"), -1e30),
    *("", " ", "a\0b", "../../../x", "/etc/passwd", "/dev/zero", "~nosuchuser/x", "${sr}", "${a.b}", "\ud800"),
    *("x" * 3000, [], {}, [[]], [None], ["a"], {"effect": "peak"}, {"effect": 5}, [0.0] * 1000, [[1], [2, 3]]),
    *({"": {}}, {"a": {"b": []}}),
)


@dataclass(frozen=True)
class Result:
    """What became of a reader's inputs."""

    reader: str
    inputs: int
    read: int  # without an error
    refused: int
    slowest_s: float
    failures: list[str]  # one line each


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status, 1 where a reader failed."""
    p = parser(__doc__)
    p.add_argument("--inputs", type=positive_int, default=10_000, help="of each reader (default %(default)s)")
    p.add_argument("--seconds", type=positive_float, default=math.inf, help="most of CPU for each reader")
    p.add_argument("--readers", type=some_of(READERS), default=list(READERS), help="with commas between (default: all)")
    p.add_argument("--seed", type=int, default=0, help="of the damage (default 0)")
    p.add_argument("--keep", type=file_path, default=Path("fuzz_failures"), help="folder for inputs that fail")
    args = p.parse_args(argv)
    results = []
    print("| reader | inputs | read | refused | slowest s | failures |\n|---|---|---|---|---|---|", flush=True)
    for name in args.readers:
        result = fuzz(name, args.inputs, args.seconds, args.seed, args.keep)
        results.append(result)
        counts = f"{result.inputs} | {result.read} | {result.refused} | {result.slowest_s:.2f}"
        print(f"| {name} | {counts} | {len(result.failures)} |", flush=True)
        for line in result.failures:
            print(f"failed: {line}", flush=True)
    write_json(args.json, {"results": results})
    return 1 if any(result.failures for result in results) else 0


def fuzz(name: str, inputs: int, seconds: float, seed: int, keep: Path) -> Result:
    """Feeds a reader in a process of its own; where that fails or is ended, the next input begins another one."""
    total, failures = Result(name, 0, 0, 0, 0.0, []), []
    with tempfile.TemporaryDirectory(prefix="reknob-fuzz-") as folder:
        work = Path(folder)
        (work / "empty").mkdir()
        reader = READERS[name](work / "seeds")
        status, used = 1, 0.0
        while status and total.inputs < inputs and len(failures) < 20:
            pid = os.fork()
            if pid == 0:
                _work(reader, work, range(total.inputs, inputs), seconds - used, f"{name}{seed}")
            _, status, usage = os.wait4(pid, 0)
            status, used = os.waitstatus_to_exitcode(status), used + usage.ru_utime + usage.ru_stime
            done = json.loads((work / "result.json").read_text())
            total = Result(
                name,
                total.inputs + done["inputs"],
                total.read + done["read"],
                total.refused + done["refused"],
                max(total.slowest_s, done["slowest_s"]),
                failures,
            )
            if status:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{name}_{total.inputs - 1}{reader.path(work / 'x').suffix}"
                kept.write_bytes((work / "current").read_bytes())
                why = done["error"] if status == 1 else f"ended by signal {-status}"
                failures.append(f"{name}: input {total.inputs - 1}: {why}; kept in {kept}")
    return total


def _work(reader: Reader, work: Path, numbers: range, seconds: float, seed: str) -> NoReturn:
    """Reads damaged files; the exit status is 1 where one fails. Counts are in result.json at every moment."""
    counts = {"inputs": 0, "read": 0, "refused": 0, "slowest_s": 0.0, "error": ""}
    status = 1
    try:
        torch.set_num_threads(1)
        # Decoders write to the descriptor itself.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limit_memory(MORE_BYTES)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Names in a file may lead to the present folder or to the home folder, whose files would be gone through.
        os.chdir(work / "empty")
        os.environ["HOME"] = str(work / "empty")
        for number in numbers:
            if time.process_time() > seconds:
                break
            counts["inputs"] += 1
            content = damaged(reader.seeds, random.Random(f"{seed}{number}"))  # noqa: S311 - not secret
            # Before it is read, as reading it may end the process.
            (work / "current").write_bytes(content)
            (work / "result.json").write_text(json.dumps(counts))
            started = time.monotonic()
            outcome = feed(reader, content, work / "target")
            counts["slowest_s"] = max(counts["slowest_s"], time.monotonic() - started)
            counts[outcome] += 1
        status = 0
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        counts["error"] = f"{type(error).__name__}: {str(error)[:150]!r} at {Path(frame.filename).name}:{frame.lineno}"
    finally:
        (work / "result.json").write_text(json.dumps(counts))
        os._exit(status)


def feed(reader: Reader, content: bytes, folder: Path) -> str:
    """Lets a reader read a file of this content: "read", or "refused" in one line. Raises anything else."""
    path = reader.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

    def too_long(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        reader.read(path)
    except UsageError as error:
        if "\n" in str(error) or len(str(error)) > 10_000:
            raise ValueError(f"a message of {len(str(error))} characters, or several lines") from error
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "read"


def damaged(seeds: list[bytes], draw: random.Random) -> bytes:
    """One of the seeds, damaged: as bytes, or, where it is a tree of values, with some replaced by odd ones."""
    seed = draw.choice(seeds)
    if draw.random() < 0.6 and (tree := _tree_of(seed)):
        content, write = tree
        content = copy.deepcopy(content)
        with contextlib.suppress(Exception):  # what the format cannot hold
            for _ in range(draw.choice((1, 1, 2, 5))):
                content = _replaced(content, draw)
            return write(content)
    return damaged_bytes(seed, draw)


@cache
def _tree_of(seed: bytes) -> tuple[object, Callable[[object], bytes]] | None:
    """A seed as a tree, and what writes one; None for other formats."""
    if seed[:2] == b"PK" and b"data.pkl" in seed[:200]:
        return torch.load(io.BytesIO(seed), weights_only=True), _torch_bytes
    with contextlib.suppress(ValueError):
        return json.loads(seed), lambda tree: json.dumps(tree).encode()
    with contextlib.suppress(ValueError, yaml.YAMLError):
        tree = yaml.safe_load(seed.decode())
        if isinstance(tree, dict):
            return tree, _yaml_bytes
    return None


def _yaml_bytes(content: object) -> bytes:
    """YAML, by libyaml where that is here, which is faster, and can write it, as it cannot a lone surrogate."""
    with contextlib.suppress(AttributeError, UnicodeEncodeError):
        return yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False).encode()
    return yaml.safe_dump(content, sort_keys=False).encode()


def _torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _replaced(tree: object, draw: random.Random) -> object:
    """A tree with a value, a name or an entry of it changed."""
    if isinstance(tree, dict) and tree and draw.random() < 0.9:
        name = draw.choice(list(tree))
        match draw.randrange(8):
            case 0:
                del tree[name]
            case 1:
                tree[draw.choice(("x", "../x", "", 5, "a.b", "effect", name * 2))] = tree.pop(name)
            case _:
                tree[name] = _replaced(tree[name], draw)
        return tree
    if isinstance(tree, list) and tree and draw.random() < 0.8:
        i = draw.randrange(len(tree))
        tree[i] = _replaced(tree[i], draw)
        return tree
    if isinstance(tree, torch.Tensor) and tree.numel() < 1e6 and draw.random() < 0.8:
        return draw.choice(TENSORS)(tree)
    return copy.deepcopy(draw.choice(ODD))


TENSORS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    torch.Tensor.double,
    torch.Tensor.bool,
    lambda x: x.to(torch.complex64),
    lambda x: x[None],
    lambda x: x.reshape(-1)[:0],
    lambda x: torch.full_like(x, float("nan")) if x.is_floating_point() else x + 2**40,
    lambda x: x.reshape(-1)[:1].expand(1 << 40),
    lambda x: x.to_sparse() if x.dim() else x,
    lambda x: torch.zeros(7, 7, 7),
    lambda x: x.new_ones(1).as_strided((3, 2), (0, 0)),
)


def damaged_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Bits turned, lengths made absurd, parts lost, doubled, swapped or inserted, mostly near the beginning or end."""
    b = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if not b:
            break
        i = draw.randrange(min(len(b), draw.choice((64, 256, 2000, len(b)))))
        i = len(b) - 1 - i if draw.random() < 0.3 else i
        match draw.randrange(7):
            case 0:
                b[i] ^= 1 << draw.randrange(8)
            case 1:
                b[i] = draw.choice((0, 10, 127, 128, 255))
            case 2:
                b[i : i + 4] = draw.choice((bytes(4), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
            case 3 if len(b) > 50:
                del b[i : i + draw.choice((1, 4, 100))]
            case 4:
                b[i:i] = draw.randbytes(draw.choice((1, 4, 40)))
            case 5:
                b[i:i] = draw.choice(
                    (b"[" * 5000, b"{" * 100, b"9" * 5000, b"&a [*a]", b"!!python/object:os.system", b"../")
                )
            case _:
                j = draw.randrange(len(b))
                b[i : i + 8] = b[j : j + 8]
    return bytes(b[: draw.randrange(len(b) + 1)] if draw.random() < 0.15 else b)


if __name__ == "__main__":
    sys.exit(main())
