"""What many runs and songs cost: read once, held as arrays, listed in blocks; the page of a log folder stays small."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scale
from reknob.afx.registry import build
from reknob.analysis import statistics
from reknob.data.pair_files import find_songs
from reknob.fleet import songs, watch
from reknob.fleet.songs import State
from reknob.fleet.store import Store
from reknob.formats import runs
from reknob.formats.harvest import Losses
from reknob.formats.presets import load_presets, read_chain, to_vectors
from reknob.report.page import batch
from reknob.runtime.files import read_json
from scripts import get_params

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six runs of the default chain, as many songs, and the set that is harvested from the runs."""
    folder = tmp_path_factory.mktemp("scale")
    scale.generate(folder / "logs", COUNT)
    scale.generate_songs(folder, COUNT)
    scale.harvest(folder)
    return folder


def test_parameters_in_records_are_those_of_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    recorded = np.load(folder / "set" / "raw_params.npy")
    assert len(recorded) == COUNT and len(np.unique(recorded[:, 0])) == COUNT
    for meta in (folder / "logs").rglob("meta.json"):
        content = read_json(meta)
        del content["raws"]
        copy = tmp_path / "logs" / meta.relative_to(folder / "logs")
        copy.parent.mkdir(parents=True)
        copy.write_text(json.dumps(content))
        for name in (runs.CONFIG, runs.CHECKPOINT):
            (copy.parent / name).symlink_to(meta.with_name(name))
    assert get_params.main([str(tmp_path / "logs"), str(tmp_path / "set"), "2020-01-01"]) == 0
    assert np.array_equal(np.load(tmp_path / "set" / "raw_params.npy"), recorded)


def test_presets_of_a_set_share_one_array(folder: Path) -> None:
    config, sr, _ = read_chain(folder / "set")
    effect = build(config, sr)
    presets = load_presets(folder / "set", effect)
    vectors = to_vectors(presets, effect)
    assert np.array_equal(vectors.numpy(), np.load(folder / "set" / "raw_params.npy"))
    apart = [replace(preset, raws=dict(preset.raws)) for preset in presets]
    assert torch.equal(to_vectors(apart, effect), vectors)
    assert len({id(preset.raws._vectors) for preset in presets}) == 1
    assert len(presets[0].raws) == len(list(presets[0].raws)) == len([p for _, p in effect.walk() if p.preset])


def test_a_chain_is_built_once_for_all_runs_that_have_it(folder: Path, tmp_path: Path) -> None:
    config = next((folder / "logs").rglob(runs.CONFIG))
    other = tmp_path / runs.CONFIG
    other.write_text(re.sub(r"^dry: .*$", "dry: /another.wav", config.read_text(), flags=re.MULTILINE))
    chains = runs.Chains()
    assert chains.read(config) is chains.read(other)
    other.write_text(config.read_text().replace("sr: 44100", "sr: 48000"))
    assert chains.read(other).sr == 48000 and chains.read(config).sr == 44100


def test_losses_are_summarised() -> None:
    assert Losses.of([3.0, 1.0, 2.0]) == (3.0, 2.0, 1.0, 1.5)
    assert all(np.isnan(value) for value in (*Losses.of([]), *Losses.of([np.inf, np.nan])))


def test_many_parameters_are_not_recorded() -> None:
    assert runs.record_of({"a": torch.zeros(runs.MOST_RECORDED + 1)}) is None and runs.record_of({}) is None
    assert runs.record_of({"a": torch.eye(2), "b": torch.tensor(0.1)}) == {"a": [1, 0, 0, 1], "b": [np.float32(0.1)]}


def test_the_page_of_many_songs_has_details_of_the_worst_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST", 2)
    meta = folder / "logs" / "song000001" / "song000001" / "run_0" / "meta.json"
    before = meta.read_text()
    meta.write_text(json.dumps(json.loads(before) | {"terminated_by": "error"}))
    text = batch.write_batch(folder / "logs", tmp_path / "index.html").read_text()
    meta.write_text(before)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    names = [song["name"] for song in data["songs"]]
    assert names == ["song000001/song000001", "song000005/song000005"], "what failed, then the highest loss"
    assert data["songs"][1]["curves"] and len(data["lines"]) == COUNT - 2 and data["failure_count"] == 0
    assert data["lines"][0][:3] == ["song000000/song000000", "run_0", scale.LOSSES]
    assert data["lines"][0][3] > data["lines"][0][4] and data["lines"][0][5] == ""


def test_songs_of_a_list_are_found_in_blocks_with_their_progress(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(songs, "FEW", 2)
    found = songs.find(str(folder / "songs.txt"), None, tmp_path).songs
    assert len(found) == COUNT
    settings = scale.command_line.read_settings(["epochs=400"])
    done = songs.progress(Store(str(folder / "logs")), found, settings)
    assert {each.state for each in done.values()} == {State.FINISHED} and len(done) == COUNT
    first = done[found[0].id]
    assert first.steps == scale.LOSSES and first.loss < first.first_loss
    listed = tmp_path / "twice.txt"
    listed.write_text((folder / "songs.txt").read_text() * 2)
    assert len(find_songs(tmp_path, data_dir=f"@{listed}")[1]) == COUNT


def test_a_summary_is_written_in_pieces(tmp_path: Path) -> None:
    rows = {name: watch.Row(name, State.FINISHED, 1, 3, 2.0, 1.0, reason='ü\n"') for name in ("a", "b")}
    summary = watch.Summary("local", rows, ["x"], begun=0.0, updated=1.0)
    written = json.loads(summary.json())
    assert written == json.loads(json.dumps(summary.record())) and len(written["songs"]) == 2
    assert list(csv.DictReader(io.StringIO(summary.csv())))[1]["reason"] == 'ü\n"'
    assert json.loads(watch.Summary("local", {}).json())["songs"] == []


def test_distances_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    whole = statistics.henze_zirkler(rows)
    monkeypatch.setattr(statistics, "MOST_DISTANCES", 350)
    assert statistics.henze_zirkler(rows) == pytest.approx(whole, rel=1e-12)


def test_a_fleet_that_fits_nothing_ends(folder: Path) -> None:
    (folder / "page").mkdir()
    scale.fleet(folder)
    counts = read_json(folder / "page" / "summary.json")["counts"]
    assert counts["finished"] == COUNT
