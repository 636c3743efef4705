"""The script that measures a GPU runs, here on a processor, and a part that fails does not cost the others."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import gpu
from reknob.runtime.files import read_json

SMALL = ["--device=cpu", "--chunks=1", "--seconds=6.1", "--steps=2", "--repeats=1"]


def test_the_parts_that_need_no_gpu_tell_their_figures(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert gpu.main([*SMALL, "--what", "agreement", "song", "--json", str(tmp_path / "gpu.json")]) == 0
    figures = read_json(tmp_path / "gpu.json")
    assert figures["gradient, relative difference"] == "0.00e+00"
    assert "2 finite, 0 undone, None" in figures["what they reached"]
    assert "2 steps of a song: " in capsys.readouterr().out


def test_a_part_that_fails_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def broken(args: argparse.Namespace) -> Iterator[gpu.Row]:
        yield "begun", 1
        raise RuntimeError("no such library")

    def sound(args: argparse.Namespace) -> Iterator[gpu.Row]:
        yield "done", 2

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "sound": sound})
    assert gpu.main([*SMALL, "--what", "broken", "sound"]) == 1
    printed = capsys.readouterr().out
    assert "begun: 1" in printed and "no such library" in printed and "done: 2" in printed
