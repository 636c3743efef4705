"""Harvesting runs: which ones count and why the others do not, from log folders made here, ours and the release's."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.formats.published import to_published
from scripts import get_params

SR = 44100
CHAIN = {
    "peak": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}},
    "low_shelf": {"effect": "low_shelf"},
    "comp": {"effect": "compressor_expander"},
}
PUBLISHED = {
    "_target_": "torch.nn.Sequential",
    "_args_": [
        {"_target_": "modules.fx.Peak", "sr": SR, "freq": 800, "min_freq": 33, "max_freq": 5400},
        {"_target_": "modules.fx.LowShelf", "sr": SR},
        {"_target_": "modules.fx.CompressorExpander", "sr": SR, "lookahead": True, "exp_th": -48.0},
    ],
}
GOOD = [3.0, 2.5, 2.2, 2.1, 2.0]
NOON = "2024-09-18T12:00:00"

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run folder; its parameters are those of the chain's defaults with the number `mark` as first gain."""

    def write(
        name: str,
        losses: list[float] = GOOD,
        *,
        created: str | None = NOON,
        ended: str | None = None,
        mark: float = 0.0,
        chain: dict = CHAIN,
        published: bool = False,
        start: str = "defaults",
    ) -> Path:
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        effect = build(chain, SR)
        raws = Knobs(effect, torch.Generator().manual_seed(0)).state_dict()
        raws["peak.gain"] = torch.tensor(mark)
        settings = {"model": PUBLISHED} if published else {"model": "small", "sr": SR, "start": start, "chain": chain}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        torch.save({"best_model": to_published(raws, effect) if published else raws}, folder / "checkpoint.ckpt")
        track = folder.parent.name
        meta = {
            "input_path": f"/takes/{track}/dry.wav",
            "target_path": f"/takes/{track}/wet.wav",
            "alignment_shift": 7,
            "losses": losses,
            "terminated_by": ended,
        }
        (folder / "meta.json").write_text(json.dumps(meta | ({"created": created} if created else {})))
        return folder

    return write


def harvest(tmp_path: Path, *flags: str, start: str = "2024-09-17:00", end: str = "2024-09-23:00") -> int:
    return get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), start, "--end_date", end, *flags])


def info_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "set" / "info.json").read_text())


def marks(tmp_path: Path) -> list[float]:
    return np.load(tmp_path / "set" / "raw_params.npy")[:, 0].tolist()


def write_one_run_for_each_reason(write_run: WriteRun, tmp_path: Path) -> None:
    for i in range(3):
        write_run(f"song/good{i}/run_0", mark=i + 1.0)
    write_run("song/stopped/run_0", [9.0, 8.0], ended="KeyboardInterrupt")
    write_run("song/loud/run_0", [9.0, 5.0, 4.5, 4.2, 4.1])
    write_run("song/worse/run_0", [1.0, 1.2, 1.1, 1.1, 1.4])
    write_run("song/shaky/run_0", [3.0, 2.0, 3.0, 2.0, 1.0])
    write_run("song/early/run_0", created="2024-09-16T23:59:59")
    write_run("song/late/run_0", created="2024-09-23T00:00:01")
    write_run("song/twice/run_0", mark=4.0)
    write_run("song/twice/run_1", created="2024-09-18T12:00:01", mark=5.0)
    (write_run("song/killed/run_0") / "meta.json").unlink()
    (write_run("song/damaged/run_0") / "checkpoint.ckpt").write_bytes(b"PK")


def test_every_run_is_kept_or_rejected_with_its_reason(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_one_run_for_each_reason(write_run, tmp_path)
    assert harvest(tmp_path, "--json") == 0
    info = info_of(tmp_path)
    assert [Path(run).parent.name for run in info["runs"]] == ["good0", "good1", "good2", "twice"]
    assert [len(info[key]) for key in ("runs", "dry_files", "wet_files", "alignment_shifts")] == [4] * 4
    assert marks(tmp_path) == [1, 2, 3, 5]
    assert info["dry_files"][3] == "/takes/twice/dry.wav" and info["alignment_shifts"] == [7] * 4
    assert info["problematic_runs"] == {
        "terminated": [["song/stopped/run_0", "KeyboardInterrupt"]],
        "loss_above_4.0": [["song/loud/run_0", 4.1]],
        "not_converged": [["song/worse/run_0", 1.0, 1.4]],
        "fluctuated_above_0.2": [["song/shaky/run_0", 1.0]],
    }
    reasons = dict(line.split(": ")[:2] for line in json.loads(capsys.readouterr().out)["rejected"])
    assert {Path(name).parent.name: reason for name, reason in reasons.items()} == {
        "stopped": "terminated",
        "loud": "loss_above_4.0",
        "worse": "not_converged",
        "shaky": "fluctuated_above_0.2",
        "early": "dates",
        "late": "dates",
        "twice": "superseded",
        "killed": "unreadable",
        "damaged": "unreadable",
    }


def test_rejected_runs_are_printed_in_a_line_per_reason(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        write_run(f"song/run_{i}", created=f"2024-09-18T12:00:0{i}")
    write_run("other/run_0", [9.0, 8.0], ended="KeyboardInterrupt")
    assert harvest(tmp_path) == 0
    newer = ", ".join(f"song/run_{i} (run_7 of the same track is newer)" for i in range(5))
    assert capsys.readouterr().out.splitlines() == [
        "rejected 1 terminated: other/run_0 (terminated early: KeyboardInterrupt)",
        f"rejected 7 superseded: {newer} and 2 more",
        f"{tmp_path / 'set'}: kept 1 of 9 runs",
    ]


def test_a_run_with_several_faults_is_rejected_for_the_first_in_order(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("good/run_0")
    write_run("a/run_0", [5.0, 9.0, 5.0, 9.0], ended="FitError")
    write_run("b/run_0", [5.0, 9.0, 5.5, 9.0])
    write_run("c/run_0", [1.0, 2.0, 1.5, 2.0])
    assert harvest(tmp_path) == 0
    problems = info_of(tmp_path)["problematic_runs"]
    assert {reason: [row[0] for row in rows] for reason, rows in problems.items()} == {
        "terminated": ["a/run_0"],
        "loss_above_4.0": ["b/run_0"],
        "not_converged": ["c/run_0"],
        "fluctuated_above_0.2": [],
    }


def test_a_start_that_was_found_may_be_the_best_state(write_run: WriteRun, tmp_path: Path) -> None:
    worse = [1.0, 1.2, 1.1, 1.1, 1.4]
    write_run("found/run_0", worse, start="signals")
    write_run("given/run_0", worse, start="/presets/mine.json")
    write_run("defaults/run_0", worse)
    assert harvest(tmp_path) == 0
    assert [Path(run).parent.name for run in info_of(tmp_path)["runs"]] == ["found", "given"]


def test_thresholds_are_the_users(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a/run_0", [5.0, 4.5, 4.4])
    assert harvest(tmp_path) == 2
    assert harvest(tmp_path, "--loss-thresh", "4.4", "--fluc-thresh", "0.3") == 0
    assert set(info_of(tmp_path)["problematic_runs"]) >= {"loss_above_4.4", "fluctuated_above_0.3"}


def test_the_newest_run_is_newest_by_its_record_and_not_by_its_file_or_number(
    write_run: WriteRun, tmp_path: Path
) -> None:
    newest = write_run("a/run_0", created="2024-09-19T00:00:00", mark=1.0)
    write_run("a/run_1", created="2024-09-18T00:00:00", mark=2.0)
    os.utime(newest / "meta.json", (0, 0))
    assert harvest(tmp_path) == 0
    assert marks(tmp_path) == [1]


def test_among_equals_the_higher_number_is_newer_also_above_nine(write_run: WriteRun, tmp_path: Path) -> None:
    for n in (2, 10, 9):
        write_run(f"a/run_{n}", mark=float(n))
    assert harvest(tmp_path) == 0
    assert marks(tmp_path) == [10]


def test_include_all_takes_every_run_of_a_track(write_run: WriteRun, tmp_path: Path) -> None:
    for n in range(3):
        write_run(f"a/run_{n}", mark=float(n))
    assert harvest(tmp_path, "--include-all") == 0
    assert marks(tmp_path) == [0, 1, 2]


def test_two_recordings_of_one_name_are_two_tracks(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a/run_0", mark=1.0)
    other = write_run("a/run_1", mark=2.0) / "meta.json"
    other.write_text(other.read_text().replace("wet.wav", "other_song/wet.wav"))
    assert harvest(tmp_path) == 0
    assert marks(tmp_path) == [1, 2]


def test_a_record_without_a_date_has_the_date_of_its_file(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, day in (("in", 18), ("out", 10)):
        meta = write_run(f"{name}/run_0", created=None) / "meta.json"
        stamp = datetime(2024, 9, day).timestamp()
        os.utime(meta, (stamp, stamp))
    assert harvest(tmp_path) == 0
    assert "rejected 1 dates: out/run_0 (created 2024-09-10 00:00)" in capsys.readouterr().out
    assert len(info_of(tmp_path)["runs"]) == 1


def test_a_run_that_has_only_begun_is_rejected_as_terminated(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("good/run_0")
    begun = write_run("begun/run_0") / "meta.json"
    begun.write_text(json.dumps({"created": NOON, "losses": [], "terminated_by": "running"}))
    assert harvest(tmp_path) == 0
    assert info_of(tmp_path)["problematic_runs"]["terminated"] == [["begun/run_0", "running"]]


def test_published_run_folders_are_read_and_agree_with_ours(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("song/theirs/run_0", published=True, created=NOON, mark=3.0)
    write_run("song/ours/run_0", mark=3.0)
    assert harvest(tmp_path) == 0
    theirs, ours = np.load(tmp_path / "set" / "raw_params.npy")
    assert (theirs == ours).all() and theirs[0] == 3.0


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"peak": {"effect": "peak", "freq": {"default": 800, "range": [33, 5000]}}}, "peak.freq.range"),
        (
            {"comp": {"effect": "compressor_expander", "lookahead": False}},
            "comp.lookahead is True in a/run_0 and False",
        ),
        ({"width": {"effect": "panning"}}, "width.effect is absent in a/run_0 and Panning in b/run_0"),
    ],
)
def test_a_mix_of_chains_is_refused_naming_the_difference(
    change: dict[str, Any], difference: str, write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("a/run_0")
    write_run("b/run_0", chain=CHAIN | change)
    assert harvest(tmp_path) == 2
    assert difference in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_the_order_of_effects_is_part_of_the_chain(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("a/run_0")
    write_run("b/run_0", chain=dict(reversed(CHAIN.items())))
    assert harvest(tmp_path) == 2
    assert "order is ('peak', 'low_shelf', 'comp') in a/run_0 and ('comp'," in capsys.readouterr().err


def test_a_chain_written_out_in_full_is_the_same_chain(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a/run_0")
    write_run("b/run_0", chain=CHAIN | {"comp": {"effect": "compressor_expander", "lookahead": True}})
    assert harvest(tmp_path) == 0
    assert len(marks(tmp_path)) == 2


def test_a_set_is_replaced_when_asked_only_and_refused_before_runs_are_read(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a/run_0", mark=1.0)
    assert harvest(tmp_path) == 0
    write_run("b/run_0", mark=2.0)
    assert harvest(tmp_path, "--overwrite") == 0
    assert marks(tmp_path) == [1, 2]
    capsys.readouterr()
    (tmp_path / "logs" / "b" / "run_0" / "meta.json").unlink()
    assert harvest(tmp_path) == 2
    told = capsys.readouterr()
    assert "holds a preset set; --overwrite replaces it" in told.err and told.out == ""
    assert marks(tmp_path) == [1, 2]
    # The log folder itself, given as OUT by mistake, is no set.
    assert get_params.main([str(tmp_path / "logs")] * 2 + ["2024-09-17", "--overwrite"]) == 2
    assert "holds what is not of a preset set (a, b)" in capsys.readouterr().err


def test_the_home_folder_is_expanded(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("a/run_0")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_params.main(["~/logs", "~/set", "2024-09-17"]) == 0
    assert info_of(tmp_path)["runs"] == [str(tmp_path / "logs" / "a" / "run_0")]


def test_a_track_under_two_spellings_is_one_track(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a/run_0", mark=1.0)
    other = write_run("a/run_1", mark=2.0) / "meta.json"
    other.write_text(other.read_text().replace("/takes/a/wet.wav", "/takes/b/../a//wet.wav"))
    assert harvest(tmp_path) == 0
    assert marks(tmp_path) == [2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": "yesterday"}, "yesterday: not a date"),
        ({"end": "2024-09-01"}, "--end_date 2024-09-01 lies before the start"),
        ({"start": "2024-09-19"}, "no run is left: 1 dates"),
    ],
)
def test_what_cannot_be_harvested_is_refused_in_one_line(
    given: dict[str, str], message: str, write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("a/run_0")
    assert harvest(tmp_path, **given) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_params.main([str(tmp_path), str(tmp_path / "set"), "2024-09-17"]) == 2
    assert "holds no run folder" in capsys.readouterr().err
