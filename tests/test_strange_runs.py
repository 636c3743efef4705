"""Run folders from strangers: an odd one is rejected with its reason, at once and in little memory, and no other."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from strange import DEEP, LIST, NULL, NUMBER, TEXT, TREE, Change, bounded, circle, device, enormous, fifo, folder

from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.formats import runs
from reknob.runtime.errors import UsageError
from scripts import get_params

SR = 44100
CHAIN = {"peak": {"effect": "peak"}}


@pytest.fixture(autouse=True)
def within_bounds() -> Iterator[None]:
    with bounded():
        yield


RECORD = {
    "created": "2024-09-18T12:00:00",
    "input_path": "/takes/dry.wav",
    "target_path": "/takes/wet.wav",
    "alignment_shift": 0,
    "losses": [3.0, 2.5, 2.4, 2.3],
    "terminated_by": None,
}


def write_run(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    raws = Knobs(build(CHAIN, SR)).state_dict()
    (folder / "config.yaml").write_text(yaml.safe_dump({"sr": SR, "chain": CHAIN}))
    torch.save({"best_model": raws}, folder / "checkpoint.ckpt")
    (folder / "meta.json").write_text(json.dumps(RECORD | changes))
    return folder


ODD_RECORDS = {
    "created": ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday", NUMBER, NULL, LIST, "nul\0"],
    "input_path": [NUMBER, NULL, TREE, LIST],
    "target_path": [NUMBER, NULL, TREE, LIST],
    "alignment_shift": [float("inf"), float("nan"), 1e300, 10**400, 1.5, TEXT, NULL, TREE, True],
    "losses": [NUMBER, NULL, TEXT, TREE, [10**400], [TEXT], [[1.0]], [None], [True]],
    "terminated_by": [NUMBER, TREE, LIST, True],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD_RECORDS.items() for value in values])
def test_an_odd_record_rejects_its_run_only(
    key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "logs" / "good" / "run_0")
    odd = write_run(tmp_path / "logs" / "odd" / "run_0", **{key: value})
    assert get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), "2024-09-17"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("rejected")] == [told[0]]
    assert told[0].startswith(f"rejected 1 unreadable: odd/run_0 ({odd}/meta.json: {key} ")
    assert len(np.load(tmp_path / "set" / "raw_params.npy")) == 1


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("losses", [[INF] * 4, [NAN], [INF, 2.0, INF, 1.0], [], [1e308, -1e308], [NAN, 2.0, 1.0]])
def test_losses_that_no_fit_has_reject_a_run_without_a_warning(
    losses: list, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    write_run(tmp_path / "logs" / "good" / "run_0")
    write_run(tmp_path / "logs" / "odd" / "run_0", losses=losses)
    assert get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), "2024-09-17"]) == 0
    assert ": odd/run_0 (" in capsys.readouterr().out.splitlines()[0]
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize("change", [fifo, device, folder, circle, enormous])
@pytest.mark.parametrize("name", ["meta.json", "checkpoint.ckpt"])
def test_a_run_whose_file_is_none_is_rejected_at_once(
    change: Change, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "logs" / "good" / "run_0")
    change(write_run(tmp_path / "logs" / "odd" / "run_0") / name)
    assert get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), "2024-09-17"]) == 0
    assert "rejected 1 unreadable: odd/run_0 (" in capsys.readouterr().out


ODD_STATES = {
    "number": 5.0,
    "text": "text",
    "list": [1.0],
    "complex": torch.zeros((), dtype=torch.complex64),
    "truth value": torch.tensor(True),
    "sparse": torch.zeros(1).to_sparse(),
    "size": torch.zeros(7),
    "no memory of its own": torch.zeros(()).expand(1 << 40),
    "not finite": torch.tensor(torch.nan),
}


@pytest.mark.parametrize("value", ODD_STATES.values(), ids=ODD_STATES)
def test_parameters_that_are_none_reject_their_run_only(
    value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "logs" / "good" / "run_0")
    odd = write_run(tmp_path / "logs" / "odd" / "run_0")
    raws = Knobs(build(CHAIN, SR)).state_dict()
    torch.save({"best_model": raws | {"peak.gain": value}}, odd / "checkpoint.ckpt")
    assert get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), "2024-09-17"]) == 0
    assert "rejected 1 unreadable: odd/run_0 (" in capsys.readouterr().out


@pytest.mark.parametrize("best", [5, None, [], {}, {1: torch.zeros(())}, {("a",): torch.zeros(())}])
def test_a_checkpoint_of_something_else_is_refused(best: object, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_0")
    torch.save({"best_model": best}, folder / "checkpoint.ckpt")
    with pytest.raises(UsageError, match="checkpoint.ckpt: "):
        runs.load_run(folder)


@pytest.mark.parametrize(("key", "value"), [("losses", 5), ("losses", [TEXT]), ("target_path", TREE), ("created", 1)])
def test_a_run_with_an_odd_record_is_not_resumed(key: str, value: object, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "song" / "run_0", **{key: value})
    with pytest.raises(UsageError, match=f"meta.json: {key} "):
        runs.newest_run(tmp_path, "song", Path("/takes/wet.wav"))
    with pytest.raises(UsageError, match=f"meta.json: {key} "):
        runs.has_ended(folder, 3)
    (folder / "meta.json").write_text(DEEP)
    with pytest.raises(UsageError, match="nested too deeply"):
        runs.has_ended(folder, 3)
