"""Trainings that keep one file, on statistics and of the proxy, are resumed as if nothing had stopped them."""

import copy
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from takes import write_takes
from torch.utils._pytree import tree_leaves

from reknob.estimation import trainer
from reknob.estimation.proxy_training import ProxyLoss
from reknob.estimation.statistics_training import EqualiserObjective
from reknob.runtime.files import read_tensors
from scripts import train_on_statistics, train_proxy

STATISTICS = "--seconds=1 --steps=41 --batch_size=4 --windows=2 --test_items=0 --workers=0 --data=folder".split()
PROXY = "--steps=5 --batch_size=1 --seconds=0.3 --pieces=1 --valid_pieces=1 --validate_every=2 --device=cpu".split()


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings, in which statistics are cached too."""
    return write_takes(tmp_path_factory.mktemp("music"))


def on_statistics(music: Path, out: Path, *more: str) -> int:
    folders = [f"--data_dir={music}", f"--log_dir={music.parent / 'logs'}"]
    return train_on_statistics.main([*STATISTICS, *folders, f"--out={out}", *more])


def of_proxy(_: Path, out: Path, *more: str) -> int:
    return train_proxy.main([*PROXY, f"--out={out}", *more])


# A training with its model, and two of the model's calls: one at which a signal arrives, and one at which it is killed.
# An epoch has 3 or 2 steps, and one or two calls are those of the validation after each.
@pytest.mark.parametrize(
    ("run", "model", "stop", "kill"), [(on_statistics, EqualiserObjective, 4, 9), (of_proxy, ProxyLoss, 2, 4)]
)
def test_a_training_that_is_stopped_and_killed_is_the_whole_one(
    run: Callable[..., int],
    model: type[torch.nn.Module],
    stop: int,
    kill: int,
    music: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward, calls, states = model.forward, iter(range(999)), []
    whole, stopped = (tmp_path / f"{name}.pt" for name in ("whole", "stopped"))

    def disturbed(self: torch.nn.Module, *batch: object) -> torch.Tensor:
        call = next(calls)
        if call == stop:
            os.kill(os.getpid(), signal.SIGINT)
        if call == kill:
            raise KeyboardInterrupt  # as a kill: what was written last is all that is left
        return forward(self, *batch)

    def saved(path: Path, content: dict) -> None:
        if path.suffix == ".ckpt":
            states.append(copy.deepcopy(content))
        write(path, content)

    write = trainer.write_tensors
    monkeypatch.setattr(trainer, "write_tensors", saved)
    assert run(music, whole) == 0 and not trainer.state_path(whole).exists()
    expected = states[-1]
    monkeypatch.setattr(trainer, "PAUSE_S", 0.0)
    monkeypatch.setattr(trainer, "WRITING", math.inf)
    monkeypatch.setattr(model, "forward", disturbed)
    assert run(music, stopped) == 130 and trainer.state_path(stopped).exists()
    assert run(music, stopped) == 2 and "exists; give another name" in capsys.readouterr().err
    assert run(music, stopped, "--resume", "--lr=0.1") == 2
    assert "was started with other settings: lr; give the same ones" in capsys.readouterr().err
    assert run(music, stopped, "--resume") == 130 and run(music, stopped, "--resume") == 0
    assert next(calls) > kill and not trainer.state_path(stopped).exists()
    leaves, others = tree_leaves(expected), tree_leaves({**states[-1], "settings": expected["settings"]})
    for one, other in zip(leaves, others, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    weights, resumed = (tree_leaves(read_tensors(out)) for out in (whole, stopped))
    for one, other in zip(weights, resumed, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert run(music, stopped, "--resume") == 2 and "so there is nothing to resume" in capsys.readouterr().err


def test_a_state_is_not_lost_to_another_training(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.write_tensors(tmp_path / "a_last.ckpt", {"some": torch.zeros(1)})
    assert on_statistics(music, tmp_path / "a.pt") == 2
    assert "a_last.ckpt exists: --resume continues this training, --overwrite starts" in capsys.readouterr().err
    assert on_statistics(music, tmp_path / "a.pt", "--resume") == 2
    assert "a_last.ckpt: not a training's state of this version" in capsys.readouterr().err
