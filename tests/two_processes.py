"""Layers, and a training, in one process and in two: run as a program by test_parallel_training.py, as it forks."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reknob.encoders.peaks import ConvNormMax
from reknob.estimation.parallel import share_batches

SIZE = "--encoder=percentiles --seconds=1 --epoch_items=9 --valid_items=5 --test_items=1 --batch_size=4 --coded=0.5"


def forked(work: Callable[[int], int], count: int) -> list[int]:
    """The exit statuses of `count` processes that are started as by a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            if count > 1:
                os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os._exit(work(rank))
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def layers(folder: Path) -> None:
    """Writes outputs, gradients and statistics of layers on a batch of 4, of one process and of two."""

    def work(rank: int, count: int) -> int:
        if count > 1:
            dist.init_process_group("gloo", rank=rank, world_size=count)
        torch.manual_seed(0)
        model = nn.Sequential(
            ConvNormMax(3, (1, 5)), nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        )
        share_batches(model)
        x, target = torch.randn(4, 2, 16), torch.randn(4, 4)
        torch.manual_seed(1)
        y = model(x[rank::count])
        (y - target[rank::count]).square().mean().backward()
        found: dict[str, Tensor] = {"y": y.detach(), **model.state_dict()}
        found |= {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        torch.save(found, folder / f"{rank}of{count}.pt")
        return 0

    statuses = forked(lambda rank: work(rank, 1), 1) + forked(lambda rank: work(rank, 2), 2)
    sys.stdout.write(json.dumps(statuses))


def training(folder: Path) -> None:
    """Trains in one process, in two that are resumed, and in two of which the second gets a signal."""
    takes = import_module("takes")
    program, kind = import_module("train_analysis_net").main, import_module("reknob.estimation.train").Training
    takes.write_takes(folder / "music")

    def run(name: str, count: int, *more: str, is_stopped: bool = False) -> list[int]:
        data = [*SIZE.split(), "--workers=0", "--data=folder", f"--data_dir={folder / 'music'}", "--device=cpu"]
        argv = [*data, f"--log_dir={folder / name}", f"--devices={count}", "--quiet", *more]

        def work(rank: int) -> int:
            step = kind.forward

            def signalled(self: nn.Module, batch: dict) -> Tensor:
                os.kill(os.getpid(), signal.SIGTERM)
                return step(self, batch)

            if is_stopped and rank == 1:
                kind.forward = signalled
            return program(argv)

        return forked(work, count)

    statuses = {
        "one": run("one", 1, "--epochs=2"),
        "two": run("two", 2, "--epochs=1") + run("two", 2, "--epochs=2", "--resume"),
        "stopped": run("stopped", 2, "--epochs=9", is_stopped=True),
    }
    sys.stdout.write(json.dumps(statuses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"layers": layers, "training": training}[sys.argv[1]](Path(sys.argv[2]))
