"""A training in several processes is that of one: the same excerpts, normalisation and draws, one that writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reknob.data.excerpts import ALONE, EpochSampler, Excerpts, Share, excerpt_loader
from reknob.estimation.parallel import share_batches
from reknob.runtime import processes
from reknob.runtime.files import read_json, read_tensors

ROOT = Path(__file__).parents[1]


def test_processes_share_the_batches_of_one() -> None:
    alone, shares = EpochSampler(11, 4), [EpochSampler(11, 4, Share(rank, 2)) for rank in range(2)]
    for sampler in (alone, *shares):
        sampler.set_epoch(3)
    assert list(alone) == list(range(33, 41)) and len(alone) == 8
    batches = [torch.tensor(list(share)).view(2, 2) for share in shares]  # of each process: two batches of two
    assert sorted(torch.cat([batch[0] for batch in batches]).tolist()) == [33, 34, 35, 36]
    assert sorted(torch.cat([batch[1] for batch in batches]).tolist()) == [37, 38, 39, 40]


def test_the_validation_has_each_excerpt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Excerpts, "__getitem__", lambda self, index: torch.tensor(index))
    excerpts = Excerpts.__new__(Excerpts)
    excerpts.length = 7
    loaders = [excerpt_loader(excerpts, 4, share=share) for share in (ALONE, Share(0, 2), Share(1, 2))]
    assert [[batch.tolist() for batch in loader] for loader in loaders] == [
        [[0, 1, 2, 3], [4, 5, 6]],
        [[0, 2], [4, 6]],
        [[1, 3], [5]],
    ]


def test_layers_of_one_process_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x, names = torch.randn(8, 3), list(layers.state_dict())
    torch.manual_seed(1)
    expected = layers(x)
    share_batches(layers)
    torch.manual_seed(1)
    assert torch.equal(layers(x), expected) and list(layers.state_dict()) == names


def test_the_rank_is_that_of_what_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.RANKS:
        monkeypatch.delenv(name, raising=False)
    assert processes.rank() == 0 and processes.connected() == 1
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert processes.rank() == 5
    monkeypatch.setenv("RANK", "3")
    assert processes.rank() == 3


def two_processes(what: str, folder: Path) -> object:
    """What tests/two_processes.py prints last: in a process of its own, as it forks."""
    program = [sys.executable, ROOT / "tests" / "two_processes.py", what, folder]
    threads = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = os.environ | threads | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_layers_of_two_processes_work_on_the_batch_of_both(tmp_path: Path) -> None:
    assert two_processes("layers", tmp_path) == [0, 0, 0]
    alone, first, second = (read_tensors(tmp_path / f"{name}.pt") for name in ("0of1", "0of2", "1of2"))
    assert torch.allclose(torch.stack([first["y"], second["y"]], 1).flatten(0, 1), alone["y"], atol=1e-5)
    assert (alone["y"] == 0).any(), "dropout drew something"
    for name, expected in alone.items():
        if name.startswith("grad "):
            assert torch.allclose((first[name] + second[name]) / 2, expected, atol=1e-5), name
        elif name != "y":
            assert torch.allclose(first[name].float(), expected.float(), atol=1e-6), name
            assert torch.equal(first[name], second[name]), name


@pytest.mark.skipif("REKNOB_CLUSTERS" not in os.environ, reason="set REKNOB_CLUSTERS=1: it takes half a minute")
def test_two_processes_train_and_go_on_as_one_does_and_stop_by_a_signal_to_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    assert two_processes("training", tmp_path) == {"one": [0], "two": [0] * 4, "stopped": [130, 130]}
    (one,), (two,) = ((tmp_path / name).glob("*") for name in ("one", "two"))
    estimators = [read_tensors(folder / "estimator.pt") for folder in (one, two)]
    losses = [estimator["record"]["valid_loss"] for estimator in estimators]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    weights = [estimator["weights"]["mlp.8.weight"] for estimator in estimators]
    assert torch.allclose(*weights, atol=1e-3)
    assert read_json(two / "settings.json")["devices"] == 2
    names = [{path.name.split(".")[0] for path in folder.iterdir()} for folder in (one, two)]
    assert names[0] == names[1]
